// AVX2, which cannot count bits: a table look-up does. Weights are nibbles; for an activation nibble a, the register
// with ones(a ^ w) for every w is the table, so one shuffle and one addition treat 32 nibbles. Sums are bytes, of at
// most 8 for each byte of activations, and are widened after 28 bytes.
#include "version.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE TARGET static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int PIXELS = 4;
constexpr int64_t WORDS = 7;

// For each byte of activations: the table of its low nibble, then that of its high one.
struct Tables {
  alignas(32) uint8_t ones[256][2][16];
};

constexpr Tables tables() {
  Tables made{};
  for (int a = 0; a < 256; a++)
    for (int half = 0; half < 2; half++)
      for (int w = 0; w < 16; w++)
        for (int differ = (half ? a >> 4 : a & 15) ^ w; differ; differ &= differ - 1) made.ones[a][half][w]++;
  return made;
}

constexpr Tables TABLES = tables();

// 64 filters at COUNT pixels, over at most WORDS words.
template <int COUNT>
INLINE void count_words(const uint8_t* weights, const uint8_t* const* pixels, int64_t bytes, int32_t* counts) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i sums[COUNT][2];
#pragma GCC unroll 4
  for (int p = 0; p < COUNT; p++) sums[p][0] = sums[p][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < bytes; k++, weights += BLOCK) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
    const __m256i low[2] = {_mm256_and_si256(first, nibble), _mm256_and_si256(second, nibble)};
    const __m256i high[2] = {_mm256_and_si256(_mm256_srli_epi16(first, 4), nibble),
                             _mm256_and_si256(_mm256_srli_epi16(second, 4), nibble)};
#pragma GCC unroll 4
    for (int p = 0; p < COUNT; p++) {
      const uint8_t(*table)[16] = TABLES.ones[pixels[p][k]];
      const __m256i of_low = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[0])));
      const __m256i of_high = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[1])));
#pragma GCC unroll 2
      for (int r = 0; r < 2; r++) {
        sums[p][r] = _mm256_add_epi8(sums[p][r], _mm256_shuffle_epi8(of_low, low[r]));
        sums[p][r] = _mm256_add_epi8(sums[p][r], _mm256_shuffle_epi8(of_high, high[r]));
      }
    }
  }
  alignas(32) uint8_t bytewise[COUNT * BLOCK];
#pragma GCC unroll 4
  for (int p = 0; p < COUNT; p++)
    for (int r = 0; r < 2; r++) _mm256_store_si256(reinterpret_cast<__m256i*>(bytewise + p * BLOCK + 32 * r), sums[p][r]);
  for (int i = 0; i < COUNT * BLOCK; i += 8) {
    __m256i* to = reinterpret_cast<__m256i*>(counts + i);
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytewise + i)));
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), wide));
  }
}

template <int COUNT>
TARGET void count_tile(const Count& c, const uint32_t* const* pixels, int32_t* counts) {
  for (int i = 0; i < COUNT * BLOCK; i++) counts[i] = 0;
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint32_t* weights = c.weights;
    if (b + 1 < c.planes)
      for (int i = 0; i < COUNT * BLOCK; i++) counts[i] *= 2;
    for (int64_t s = 0; s < c.segment_count; s++)
      for (int64_t k = 0; k < c.words; k += WORDS) {
        const int64_t words = c.words - k < WORDS ? c.words - k : WORDS;
        const uint8_t* at[COUNT];
        for (int p = 0; p < COUNT; p++)
          at[p] = reinterpret_cast<const uint8_t*>(pixels[p] + b * c.plane + c.segments[s] + k);
        count_words<COUNT>(reinterpret_cast<const uint8_t*>(weights), at, words * 4, counts);
        weights += words * BLOCK;
      }
  }
}

void count(const Count& c) {
  static constexpr void (*tiles[])(const Count&, const uint32_t* const*, int32_t*) = {count_tile<1>, count_tile<2>,
                                                                                     count_tile<3>, count_tile<4>};
  for (int64_t i = 0; i < c.count; i += PIXELS) {
    const int64_t left = c.count - i;
    tiles[(left < PIXELS ? left : PIXELS) - 1](c, c.pixels + i, c.counts + i * BLOCK);
  }
}

template <bool MAP>
INLINE __m256 values(const Finish& f, int64_t pixel, int lane, __m128i shift) {
  const __m256i counts = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(f.counts + pixel * BLOCK + lane));
  const __m256i base = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(f.base[pixel] + lane));
  const __m256i sum = _mm256_sub_epi32(base, _mm256_sll_epi32(counts, shift));
  __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(f.scale + lane));
  if (MAP) value = _mm256_mul_ps(value, _mm256_set1_ps(f.map[pixel]));
  return _mm256_add_ps(value, _mm256_loadu_ps(f.bias + lane));
}

// Eight rows of eight become columns.
INLINE void transpose(__m256* r) {
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    t[j] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x20);
    t[j + 4] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) r[j] = t[j];
}

INLINE __m256i below(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)),
                            _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

template <bool MAP>
TARGET void finish_lanes(const Finish& f, int lane) {
  const __m128i shift = _mm_cvtsi32_si128(f.shift);
  float* out = static_cast<float*>(f.out) + lane * f.step;
  const int filters = f.filters - lane;
  for (int64_t i = 0; i < f.count; i += 8) {
    const int64_t pixels = f.count - i < 8 ? f.count - i : 8;
    __m256 rows[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) rows[j] = values<MAP>(f, i + (j < pixels ? j : 0), lane, shift);
    transpose(rows);
    if (pixels == 8 && filters >= 8) {
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) _mm256_storeu_ps(out + j * f.step + i, rows[j]);
      continue;
    }
    for (int j = 0; j < 8 && j < filters; j++) _mm256_maskstore_ps(out + j * f.step + i, below(pixels), rows[j]);
  }
}

void finish_planes(const Finish& f) {
  for (int lane = 0; lane < f.filters; lane += 8) (f.map ? finish_lanes<true> : finish_lanes<false>)(f, lane);
}

TARGET void finish_rows(const Finish& f) {
  float* out = static_cast<float*>(f.out);
  const __m128i shift = _mm_cvtsi32_si128(f.shift);
  for (int64_t i = 0; i < f.count; i++)  // rows have no map
    for (int lane = 0; lane < f.filters; lane += 8)
      _mm256_maskstore_ps(out + i * f.step + lane, below(f.filters - lane), values<false>(f, i, lane, shift));
}

// Each level's bit b, for every pixel, into words[b]; a NaN is the lowest level.
TARGET void pack_levels(const Pack& p) {
  const __m256 steps = _mm256_set1_ps(p.steps), top = _mm256_set1_ps(static_cast<float>((1 << p.bits) - 1));
  for (int64_t i = 0; i < p.pixels; i += 8) {
    const __m256i wanted = below(p.pixels - i);
    __m256i words[4] = {};
    for (int64_t c = 0; c < p.channels; c++) {
      const __m256 scaled = _mm256_mul_ps(_mm256_maskload_ps(p.x + c * p.step + i, wanted), steps);
      const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(scaled, _mm256_setzero_ps()), top));
      const __m128i up = _mm_cvtsi32_si128(static_cast<int>(c));
      for (int b = 0; b < 4; b++) {
        const __m256i bit = _mm256_and_si256(_mm256_srli_epi32(q, b), _mm256_set1_epi32(1));
        words[b] = _mm256_or_si256(words[b], _mm256_sll_epi32(bit, up));
      }
    }
    for (int b = 0; b < p.bits; b++)
      _mm256_maskstore_epi32(reinterpret_cast<int*>(p.words + b * p.pixels + i), wanted, words[b]);
  }
}

TARGET void pack_planes(const Pack& p) {
  if (p.bits) return pack_levels(p);
  for (int64_t i = 0; i < p.pixels; i += 8) {
    const __m256i wanted = below(p.pixels - i);
    __m256i word = _mm256_setzero_si256(), bit = _mm256_set1_epi32(1);
    for (int64_t c = 0; c < p.channels; c++, bit = _mm256_add_epi32(bit, bit)) {
      const __m256 x = _mm256_maskload_ps(p.x + c * p.step + i, wanted);
      const __m256 positive = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ);
      word = _mm256_or_si256(word, _mm256_and_si256(_mm256_castps_si256(positive), bit));
    }
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p.words + i), wanted, word);
  }
}

TARGET void pack_rows(const Pack& p) {
  if (p.bits) return pack_rows_plain(p);
  const int64_t words = (p.channels + 31) / 32;
  for (int64_t i = 0; i < p.pixels; i++)
    for (int64_t w = 0; w < words; w++) {
      uint32_t word = 0;
      for (int byte = 0; byte < 4 && w * 32 + byte * 8 < p.channels; byte++) {
        const int64_t first = w * 32 + byte * 8;
        const __m256i wanted = below(p.channels - first);
        const __m256 x = _mm256_maskload_ps(p.x + i * p.step + first, wanted);
        const __m256 positive = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ);
        const int bits = _mm256_movemask_ps(_mm256_and_ps(positive, _mm256_castsi256_ps(wanted)));
        word |= static_cast<uint32_t>(bits) << 8 * byte;
      }
      p.words[i * words + w] = word;
    }
}

const Version version = {"avx2", true, pack_planes, pack_rows, count, finish_planes, finish_rows, finish_words_plain};

}  // namespace

const Version* avx2() { return __builtin_cpu_supports("avx2") ? &version : nullptr; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* avx2() { return nullptr; }
}  // namespace rarefy
#endif
