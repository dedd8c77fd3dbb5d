// AVX2, which cannot count bits: a table look-up does, four bits of each lane for two rows at once. With w in a lane,
// and a and b in the rows, the table of (a, b) has ones(a ^ w) + 16 ones(b ^ w) at w. Three of them can be added before
// the two counts have to part.
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

constexpr int HALF = ROWS / 2;  // pairs of rows
constexpr int TILE = 4;         // pairs whose sums stay in registers
constexpr int64_t BYTES = 30;   // for which sums of bytes have room, of at most 8 for each byte of activations
constexpr int64_t WIDE = 8190;  // bytes for which 16 bits have room

struct Tables {
  alignas(64) uint8_t pair[256][16];  // of a and b, of which b is the high nibble
  uint8_t one[256][2][16];            // of the nibbles of a byte, each alone
};

constexpr uint8_t ones(int nibble) { return (nibble & 1) + (nibble >> 1 & 1) + (nibble >> 2 & 1) + (nibble >> 3); }

constexpr Tables tables() {
  Tables made{};
  for (int both = 0; both < 256; both++)
    for (int w = 0; w < 16; w++) {
      const uint8_t low = ones((both & 15) ^ w), high = ones((both >> 4) ^ w);
      made.pair[both][w] = static_cast<uint8_t>(low | high << 4);
      made.one[both][0][w] = low, made.one[both][1][w] = high;
    }
  return made;
}

constexpr Tables TABLES = tables();

INLINE __m256i twice(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

// Where the tables are that a unit of 32 rows takes: [nibble][16 pairs].
INLINE void choose(const uint8_t* rows, uint16_t* tables) {
  const __m256i nibble = _mm256_set1_epi8(15), weights = _mm256_set1_epi16(0x1001);
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
  const __m256i low = _mm256_and_si256(all, nibble), high = _mm256_and_si256(_mm256_srli_epi16(all, 4), nibble);
  __m256i* to = reinterpret_cast<__m256i*>(tables);
  _mm256_store_si256(to, _mm256_slli_epi16(_mm256_maddubs_epi16(low, weights), 4));
  _mm256_store_si256(to + 1, _mm256_slli_epi16(_mm256_maddubs_epi16(high, weights), 4));
}

// sums, which start here or not, get the counts of a nibble of all lanes.
template <int PAIRS>
INLINE void look_up(const uint16_t* tables, __m256i lanes, bool first, __m256i* sums) {
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) {
    const __m256i found = _mm256_shuffle_epi8(twice(TABLES.pair[0] + tables[p]), lanes);
    sums[p] = first ? found : _mm256_add_epi8(sums[p], found);
    __asm__ volatile("" : "+x"(sums[p]));  // one after the other: registers are few
  }
}

// Adds sums to `both`, which may overflow into nothing, and the counts of the second rows to `seconds`.
template <int PAIRS>
INLINE void part(const __m256i* sums, __m256i* both, __m256i* seconds) {
  const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) {
    both[p] = _mm256_add_epi8(both[p], sums[p]);
    seconds[p] = _mm256_add_epi8(seconds[p], _mm256_and_si256(_mm256_srli_epi16(sums[p], 4), nibble));
  }
}

INLINE __m256i low_nibbles(const uint8_t* lanes) {
  return _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(lanes)), _mm256_set1_epi8(15));
}
INLINE __m256i high_nibbles(const uint8_t* lanes) {
  const __m256i all = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
  return _mm256_and_si256(_mm256_srli_epi16(all, 4), _mm256_set1_epi8(15));
}

// Sums of bytes to those of even lanes and of odd ones.
INLINE void add_halves(__m256i sums, __m256i* halves) {
  halves[0] = _mm256_add_epi16(halves[0], _mm256_and_si256(sums, _mm256_set1_epi16(255)));
  halves[1] = _mm256_add_epi16(halves[1], _mm256_srli_epi16(sums, 8));
}

// Over at most BYTES bytes, with tables [bytes][ROWS] of `choose`.
template <int PAIRS>
TARGET void count_pairs(const uint8_t* lanes, const uint16_t* tables, int64_t bytes, __m256i (*halves)[2]) {
  __m256i both[PAIRS], seconds[PAIRS], sums[PAIRS];
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) both[p] = seconds[p] = _mm256_setzero_si256();
  for (; bytes >= 3; bytes -= 3, lanes += 3 * LANES, tables += 3 * ROWS) {
    look_up<PAIRS>(tables, low_nibbles(lanes), true, sums);
    look_up<PAIRS>(tables + HALF, high_nibbles(lanes), false, sums);
    look_up<PAIRS>(tables + ROWS, low_nibbles(lanes + LANES), false, sums);
    part<PAIRS>(sums, both, seconds);
    look_up<PAIRS>(tables + ROWS + HALF, high_nibbles(lanes + LANES), true, sums);
    look_up<PAIRS>(tables + 2 * ROWS, low_nibbles(lanes + 2 * LANES), false, sums);
    look_up<PAIRS>(tables + 2 * ROWS + HALF, high_nibbles(lanes + 2 * LANES), false, sums);
    part<PAIRS>(sums, both, seconds);
  }
  for (; bytes; bytes--, lanes += LANES, tables += ROWS) {
    look_up<PAIRS>(tables, low_nibbles(lanes), true, sums);
    look_up<PAIRS>(tables + HALF, high_nibbles(lanes), false, sums);
    part<PAIRS>(sums, both, seconds);
  }
  const __m256i high = _mm256_set1_epi8(static_cast<char>(0xf0));
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) {
    const __m256i shifted = _mm256_and_si256(_mm256_slli_epi16(seconds[p], 4), high);
    add_halves(_mm256_sub_epi8(both[p], shifted), halves[2 * p]);
    add_halves(seconds[p], halves[2 * p + 1]);
  }
}

// One row, whose lanes are each read once.
INLINE void count_one(const uint8_t* lanes, const uint8_t* row, int64_t step, int64_t bytes, __m256i* halves) {
  __m256i sums = _mm256_setzero_si256();
  for (; bytes; bytes--, lanes += LANES, row += step) {
    __builtin_prefetch(lanes + 96 * LANES);
    sums = _mm256_add_epi8(sums, _mm256_shuffle_epi8(twice(TABLES.one[*row][0]), low_nibbles(lanes)));
    sums = _mm256_add_epi8(sums, _mm256_shuffle_epi8(twice(TABLES.one[*row][1]), high_nibbles(lanes)));
  }
  add_halves(sums, halves);
}

// Empties halves into counts, added to what is there or not, and doubled afterwards or not.
INLINE void widen(__m256i* halves, int32_t* counts, bool add, bool twice) {
  const __m256i pairs[2] = {_mm256_unpacklo_epi16(halves[0], halves[1]), _mm256_unpackhi_epi16(halves[0], halves[1])};
  for (int i = 0; i < 4; i++) {
    const __m128i eight = i < 2 ? _mm256_castsi256_si128(pairs[i % 2]) : _mm256_extracti128_si256(pairs[i % 2], 1);
    __m256i* to = reinterpret_cast<__m256i*>(counts + 8 * i);
    const __m256i more = _mm256_cvtepu16_epi32(eight);
    const __m256i sum = add ? _mm256_add_epi32(_mm256_load_si256(to), more) : more;
    _mm256_store_si256(to, twice ? _mm256_add_epi32(sum, sum) : sum);
  }
  halves[0] = halves[1] = _mm256_setzero_si256();
}

TARGET void widen_all(__m256i (*halves)[2], int rows, int32_t* counts, bool add, bool twice) {
  for (int r = 0; r < rows; r++) widen(halves[r], counts + r * CHUNK, add, twice);
}

// At most BYTES bytes of all rows.
TARGET void count_part(const uint8_t* lanes, const uint8_t* rows, int64_t step, int row_count, int64_t bytes,
                       __m256i (*halves)[2]) {
  static constexpr void (*tiles[])(const uint8_t*, const uint16_t*, int64_t, __m256i(*)[2]) = {
      count_pairs<1>, count_pairs<2>, count_pairs<3>, count_pairs<4>};
  if (row_count == 1) return count_one(lanes, rows, step, bytes, halves[0]);
  alignas(32) uint16_t tables[BYTES * ROWS];
  for (int64_t k = 0; k < bytes; k++) choose(rows + k * step, tables + k * ROWS);
  const int pairs = (row_count + 1) / 2;
  for (int p = 0; p < pairs; p += TILE) {
    const int left = pairs - p;
    tiles[(left < TILE ? left : TILE) - 1](lanes, tables + p, bytes, halves + 2 * p);
  }
}

TARGET void count(const Count& c) {
  __m256i halves[ROWS][2];
  for (int r = 0; r < c.row_count + c.row_count % 2; r++) halves[r][0] = halves[r][1] = _mm256_setzero_si256();
  for (int r = 0; c.out && r < c.row_count; r++) {
    const float* out = c.out + r * c.out_step;
    for (int i = 0; i < LANES; i += 16) __builtin_prefetch(out + i, 1);
  }
  bool add = false;
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint8_t *lanes = c.lanes + b * c.lane_plane, *rows = c.rows + b * c.row_plane;
    for (int64_t k = 0, bytes, room = WIDE; k < c.depth; k += bytes) {
      bytes = c.depth - k < BYTES ? c.depth - k : BYTES;
      if (room < bytes) widen_all(halves, c.row_count, c.sums, add, false), add = true, room = WIDE;
      room -= bytes;
      count_part(lanes + k * LANES, rows + k * c.step, c.step, c.row_count, bytes, halves);
    }
    widen_all(halves, c.row_count, c.sums, add, b > 0 || c.twice), add = true;
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
