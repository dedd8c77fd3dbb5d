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

constexpr int TILE = 8;          // pixels
constexpr int64_t BYTES = 28;    // for which sums of bytes have room
constexpr int64_t WIDE = 8188;   // bytes for which 16 bits have room

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

// Adds to halves, the sums of even filters and those of odd ones, over at most BYTES bytes.
template <int COUNT>
INLINE void count_bytes(const uint8_t* weights, const uint8_t* const* pixels, int64_t bytes, __m256i (*halves)[2]) {
  const __m256i nibble = _mm256_set1_epi8(15), even = _mm256_set1_epi16(255);
  __m256i sums[COUNT];
#pragma GCC unroll 8
  for (int p = 0; p < COUNT; p++) sums[p] = _mm256_setzero_si256();
  for (int64_t k = 0; k < bytes; k++, weights += BLOCK) {
    if (COUNT == 1) __builtin_prefetch(weights + 24 * 4 * BLOCK);
    const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i low = _mm256_and_si256(both, nibble), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 8
    for (int p = 0; p < COUNT; p++) {
      const uint8_t(*table)[16] = TABLES.ones[pixels[p][k]];
      const __m256i of_low = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[0])));
      const __m256i of_high = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[1])));
      sums[p] = _mm256_add_epi8(sums[p], _mm256_shuffle_epi8(of_low, low));
      sums[p] = _mm256_add_epi8(sums[p], _mm256_shuffle_epi8(of_high, high));
      __asm__ volatile("" : "+x"(sums[p]));
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < COUNT; p++) {
    halves[p][0] = _mm256_add_epi16(halves[p][0], _mm256_and_si256(sums[p], even));
    halves[p][1] = _mm256_add_epi16(halves[p][1], _mm256_srli_epi16(sums[p], 8));
  }
}

// Empties halves into counts.
TARGET void widen(__m256i* halves, int32_t* counts) {
  const __m256i pairs[2] = {_mm256_unpacklo_epi16(halves[0], halves[1]), _mm256_unpackhi_epi16(halves[0], halves[1])};
  for (int i = 0; i < 4; i++) {
    const __m128i eight = i < 2 ? _mm256_castsi256_si128(pairs[i % 2]) : _mm256_extracti128_si256(pairs[i % 2], 1);
    __m256i* to = reinterpret_cast<__m256i*>(counts + 8 * i);
    _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), _mm256_cvtepu16_epi32(eight)));
  }
  halves[0] = halves[1] = _mm256_setzero_si256();
}

template <int COUNT>
TARGET void count_tile(const Count& c) {
  __m256i halves[COUNT][2];
  for (auto& half : halves) half[0] = half[1] = _mm256_setzero_si256();
  for (int i = 0; i < COUNT * BLOCK; i++) c.counts[i] = 0;
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint8_t* weights = reinterpret_cast<const uint8_t*>(c.weights);
    int64_t room = WIDE;
    for (int i = 0; b + 1 < c.planes && i < COUNT * BLOCK; i++) c.counts[i] *= 2;
    for (int64_t s = 0; s < c.segment_count; s++)
      for (int64_t k = 0, bytes; k < c.words * 4; k += bytes, weights += bytes * BLOCK) {
        bytes = c.words * 4 - k < BYTES ? c.words * 4 - k : BYTES;
        const uint8_t* at[COUNT];
        for (int p = 0; p < COUNT; p++)
          at[p] = reinterpret_cast<const uint8_t*>(c.pixels[p] + b * c.plane + c.segments[s]) + k;
        for (int p = 0; room < bytes && p < COUNT; p++) widen(halves[p], c.counts + p * BLOCK);
        room = (room < bytes ? WIDE : room) - bytes;
        count_bytes<COUNT>(weights, at, bytes, halves);
      }
    for (int p = 0; p < COUNT; p++) widen(halves[p], c.counts + p * BLOCK);
  }
}

void count(const Count& c) {
  static constexpr void (*tiles[])(const Count&) = {count_tile<1>, count_tile<2>, count_tile<3>, count_tile<4>,
                                                    count_tile<5>, count_tile<6>, count_tile<7>, count_tile<8>};
  for (int64_t i = 0; i < c.count; i += TILE) {
    const int64_t left = c.count - i;
    Count tile = c;
    tile.pixels += i;
    tile.counts += i * BLOCK;
    tiles[(left < TILE ? left : TILE) - 1](tile);
  }
}

constexpr int WIDTH = 8;
using Lanes = __m256;
using Words = __m256i;
using Some = __m256i;

INLINE Lanes every(float x) { return _mm256_set1_ps(x); }
INLINE Words every(int x) { return _mm256_set1_epi32(x); }
INLINE Some below(int64_t count) {
  return _mm256_cmpgt_epi32(every(static_cast<int>(count < 8 ? count : 8)), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
INLINE Lanes load(const float* from) { return _mm256_loadu_ps(from); }
INLINE Words load(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const Words*>(from)); }
INLINE Lanes load(Some wanted, const float* from) { return _mm256_maskload_ps(from, wanted); }
INLINE void store(Some wanted, float* to, Lanes x) { _mm256_maskstore_ps(to, wanted, x); }
INLINE void store(Some wanted, uint32_t* to, Words x) { _mm256_maskstore_epi32(reinterpret_cast<int*>(to), wanted, x); }
INLINE Lanes times(Lanes a, Lanes b) { return _mm256_mul_ps(a, b); }
INLINE Lanes plus(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
INLINE Words minus(Words a, Words b) { return _mm256_sub_epi32(a, b); }
INLINE Words shifted(Words x, int by) { return _mm256_sll_epi32(x, _mm_cvtsi32_si128(by)); }
INLINE Words doubled(Words x) { return _mm256_add_epi32(x, x); }
INLINE Lanes to_float(Words x) { return _mm256_cvtepi32_ps(x); }
INLINE Some positive(Lanes x) { return _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ)); }
INLINE Some has(Words x, uint32_t bit) {
  const Words wanted = every(static_cast<int>(bit));
  return _mm256_cmpeq_epi32(_mm256_and_si256(x, wanted), wanted);
}
INLINE Words with(Words x, Some where, Words bit) { return _mm256_or_si256(x, _mm256_and_si256(where, bit)); }
INLINE uint32_t bits(Some wanted, Some where) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_and_si256(wanted, where))));
}

INLINE Words levels(Lanes x, const Pack& p) {
  const Lanes raised = _mm256_max_ps(times(x, every(p.steps)), _mm256_setzero_ps());  // the second where one is a NaN
  return _mm256_cvtps_epi32(_mm256_min_ps(raised, every(static_cast<float>((1 << p.bits) - 1))));
}

INLINE void transpose(Lanes* r) {
  Lanes t[8];
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

#include "lanes.inl"

const Version version = {"avx2", Order::BYTES, pack_planes, pack_rows, count, finish_planes, finish_rows, finish_words};

}  // namespace

const Version* avx2() { return __builtin_cpu_supports("avx2") ? &version : nullptr; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* avx2() { return nullptr; }
}  // namespace rarefy
#endif
