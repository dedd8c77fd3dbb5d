// AVX2, which cannot count bits: a table look-up does. Lanes are nibbles; for a nibble a of a row, the register with
// ones(a ^ w) for every w is the table, so one shuffle and one addition treat 32 nibbles. Sums are bytes, of at
// most 8 for each byte of activations, and are widened after 28 bytes.
#include "version.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE TARGET static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int TILE = 8;          // rows
constexpr int64_t BYTES = 28;    // for which sums of bytes have room
constexpr int64_t WIDE = 8188;   // bytes for which 16 bits have room

// For each byte of a row: the table of its low nibble, then that of its high one.
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

// Adds to halves, the sums of even lanes and those of odd ones, over at most BYTES bytes.
template <int HIGH>
INLINE void count_bytes(const uint8_t* lanes, const uint8_t* rows, int64_t step, int64_t bytes, __m256i (*halves)[2]) {
  const __m256i nibble = _mm256_set1_epi8(15), even = _mm256_set1_epi16(255);
  __m256i sums[HIGH];
#pragma GCC unroll 8
  for (int r = 0; r < HIGH; r++) sums[r] = _mm256_setzero_si256();
  for (int64_t k = 0; k < bytes; k++, lanes += LANES, rows += step) {
    if (HIGH == 1) __builtin_prefetch(lanes + 96 * LANES);
    const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
    const __m256i low = _mm256_and_si256(both, nibble), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 8
    for (int r = 0; r < HIGH; r++) {
      const uint8_t(*table)[16] = TABLES.ones[rows[r]];
      const __m256i of_low = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[0])));
      const __m256i of_high = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table[1])));
      sums[r] = _mm256_add_epi8(sums[r], _mm256_shuffle_epi8(of_low, low));
      sums[r] = _mm256_add_epi8(sums[r], _mm256_shuffle_epi8(of_high, high));
      __asm__ volatile("" : "+x"(sums[r]));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < HIGH; r++) {
    halves[r][0] = _mm256_add_epi16(halves[r][0], _mm256_and_si256(sums[r], even));
    halves[r][1] = _mm256_add_epi16(halves[r][1], _mm256_srli_epi16(sums[r], 8));
  }
}

// Empties halves into counts, which are doubled afterwards or not.
INLINE void widen(__m256i* halves, int32_t* counts, bool twice) {
  const __m256i pairs[2] = {_mm256_unpacklo_epi16(halves[0], halves[1]), _mm256_unpackhi_epi16(halves[0], halves[1])};
  for (int i = 0; i < 4; i++) {
    const __m128i eight = i < 2 ? _mm256_castsi256_si128(pairs[i % 2]) : _mm256_extracti128_si256(pairs[i % 2], 1);
    __m256i* to = reinterpret_cast<__m256i*>(counts + 8 * i);
    const __m256i sum = _mm256_add_epi32(_mm256_load_si256(to), _mm256_cvtepu16_epi32(eight));
    _mm256_store_si256(to, _mm256_sll_epi32(sum, _mm_cvtsi32_si128(twice)));
  }
  halves[0] = halves[1] = _mm256_setzero_si256();
}

template <int HIGH>
TARGET void count_tile(const Count& c, int row) {
  __m256i halves[HIGH][2];
  int32_t* const counts = c.sums + row * CHUNK;
  for (int r = 0; r < HIGH; r++) {
    halves[r][0] = halves[r][1] = _mm256_setzero_si256();
    for (int i = 0; i < LANES; i += 8)
      _mm256_store_si256(reinterpret_cast<__m256i*>(counts + r * CHUNK + i), _mm256_setzero_si256());
    for (int i = 0; c.out && i < LANES; i += 16) __builtin_prefetch(c.out + (row + r) * c.out_step + i, 1);
  }
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint8_t *lanes = c.lanes + b * c.lane_plane, *rows = c.rows + b * c.row_plane + row;
    for (int64_t k = 0, bytes, room = WIDE; k < c.depth; k += bytes) {
      bytes = c.depth - k < BYTES ? c.depth - k : BYTES;
      for (int r = 0; room < bytes && r < HIGH; r++) widen(halves[r], counts + r * CHUNK, false);
      room = (room < bytes ? WIDE : room) - bytes;
      count_bytes<HIGH>(lanes + k * LANES, rows + k * c.step, c.step, bytes, halves);
    }
    for (int r = 0; r < HIGH; r++) widen(halves[r], counts + r * CHUNK, b > 0 || c.twice);
  }
}

void count(const Count& c) {
  static constexpr void (*tiles[])(const Count&, int) = {count_tile<1>, count_tile<2>, count_tile<3>, count_tile<4>,
                                                         count_tile<5>, count_tile<6>, count_tile<7>, count_tile<8>};
  for (int row = 0; row < c.row_count; row += TILE) {
    const int left = c.row_count - row;
    tiles[(left < TILE ? left : TILE) - 1](c, row);
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
INLINE void store(float* to, Lanes x) { _mm256_storeu_ps(to, x); }
INLINE void store(Some wanted, float* to, Lanes x) { _mm256_maskstore_ps(to, wanted, x); }
INLINE void store(Some wanted, uint32_t* to, Words x) { _mm256_maskstore_epi32(reinterpret_cast<int*>(to), wanted, x); }
INLINE Lanes times(Lanes a, Lanes b) { return _mm256_mul_ps(a, b); }
INLINE Lanes plus(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
INLINE Words minus(Words a, Words b) { return _mm256_sub_epi32(a, b); }
INLINE Words doubled(Words x) { return _mm256_add_epi32(x, x); }
INLINE Lanes to_float(Words x) { return _mm256_cvtepi32_ps(x); }
INLINE Some reaches(Lanes x, Lanes threshold) { return _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GE_OQ)); }
INLINE Some has(Words x, uint32_t bit) {
  const Words wanted = every(static_cast<int>(bit));
  return _mm256_cmpeq_epi32(_mm256_and_si256(x, wanted), wanted);
}
INLINE Words with(Words x, Some where, Words bit) { return _mm256_or_si256(x, _mm256_and_si256(where, bit)); }
INLINE uint32_t bits(Some wanted, Some where) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_and_si256(wanted, where))));
}

// from[where], for 16 values and for any.
INLINE Words pick(const int32_t* from, Words where) {
  const Lanes low = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(load(from), where));
  const Lanes high = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(load(from + 8), where));
  return _mm256_castps_si256(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(where, 28))));
}
INLINE Words gather(const int32_t* from, Words where) { return _mm256_i32gather_epi32(from, where, 4); }

INLINE Words levels(Lanes x, const Pack& p) {
  const Lanes raised = _mm256_max_ps(times(x, every(p.steps)), _mm256_setzero_ps());  // the second where one is a NaN
  return _mm256_cvtps_epi32(_mm256_min_ps(raised, every(static_cast<float>((1 << p.bits) - 1))));
}

#include "lanes.inl"

const Version version = {"avx2", Order::BYTES, 32, pack_planes, pack_rows, lay_plain<uint8_t>, count, finish};

}  // namespace

const Version* avx2() { return __builtin_cpu_supports("avx2") ? &version : nullptr; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* avx2() { return nullptr; }
}  // namespace rarefy
#endif
