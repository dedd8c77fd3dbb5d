// AVX-512 with VPOPCNTDQ: sixteen pixels or filters in a register.
//
// One xor, one popcount and one addition for each register of weights would be 341 binary multiply-adds in a cycle, on
// the two ports that 512 bits have. Here words come in pairs, a and b, stored as a and a ^ b: with one bit kept in every
// place as the sum so far, a full adder of two words takes three instructions with their xor, and only its carry is
// counted: five instructions instead of six, or 409 in a cycle.
#include "version.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define INLINE TARGET static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int TILE = 4;       // rows, whose counts stay in registers
constexpr int AHEAD = 2048;   // words of weights that are fetched before they are needed, where each is used once
constexpr int SUM = 0x96;     // of three bits
constexpr int CARRY = 0xd4;   // the first bit where the others are the same, or else the second

// Over every register of every row; unrolled, or the compiler keeps them in memory.
#define TILE_LOOP(r, v)                              \
  _Pragma("GCC unroll 4") for (int r = 0; r < HIGH; r++) \
      _Pragma("GCC unroll 2") for (int v = 0; v < WIDE; v++)

// HIGH rows at WIDE registers of lanes.
template <int HIGH, int WIDE>
TARGET void count_tile(const Count& c, int row) {
  __m512i counts[HIGH][WIDE];
  const int64_t ahead = c.out ? AHEAD : 0;
  if (c.out) TILE_LOOP(r, v) __builtin_prefetch(c.out + (row + r) * c.out_step + 16 * v, 1);
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint32_t* lanes = reinterpret_cast<const uint32_t*>(c.lanes + b * c.lane_plane);
    const uint32_t* rows = reinterpret_cast<const uint32_t*>(c.rows + b * c.row_plane) + row;
    __m512i sums[HIGH][WIDE], carries[HIGH][WIDE];
    TILE_LOOP(r, v) sums[r][v] = carries[r][v] = _mm512_setzero_si512();
    for (int64_t k = 0; k < c.depth; k += 2, lanes += 2 * LANES, rows += 2 * c.step) {
      if (HIGH == 1)
        for (int line = 0; line < 2 * LANES; line += 16) __builtin_prefetch(lanes + ahead + line);
      __m512i first[WIDE], both[WIDE];
      for (int v = 0; v < WIDE; v++) first[v] = _mm512_load_si512(lanes + 16 * v);
      for (int v = 0; v < WIDE; v++) both[v] = _mm512_load_si512(lanes + LANES + 16 * v);
      TILE_LOOP(r, v) {
        const __m512i differ = _mm512_xor_si512(first[v], _mm512_set1_epi32(static_cast<int>(rows[r])));
        const __m512i word = _mm512_set1_epi32(static_cast<int>(rows[c.step + r]));
        const __m512i sum = _mm512_ternarylogic_epi32(word, sums[r][v], both[v], SUM);
        const __m512i carry = _mm512_ternarylogic_epi32(differ, sums[r][v], sum, CARRY);
        sums[r][v] = sum;
        carries[r][v] = _mm512_add_epi32(carries[r][v], _mm512_popcnt_epi32(carry));
        __asm__ volatile("" : "+v"(sums[r][v]), "+v"(carries[r][v]));  // one after the other: registers are few
      }
    }
    TILE_LOOP(r, v) {
      const __m512i twice = b + 1 < c.planes ? _mm512_add_epi32(carries[r][v], counts[r][v]) : carries[r][v];
      counts[r][v] = _mm512_add_epi32(_mm512_slli_epi32(twice, 1), _mm512_popcnt_epi32(sums[r][v]));
    }
  }
  if (c.twice) TILE_LOOP(r, v) counts[r][v] = _mm512_slli_epi32(counts[r][v], 1);
  TILE_LOOP(r, v) _mm512_store_si512(c.sums + (row + r) * CHUNK + 16 * v, counts[r][v]);
}

template <int WIDE>
TARGET void count_rows(const Count& c) {
  int row = 0;
  for (; row + TILE <= c.row_count; row += TILE) count_tile<TILE, WIDE>(c, row);
  switch (c.row_count - row) {
    case 1: return count_tile<1, WIDE>(c, row);
    case 2: return count_tile<2, WIDE>(c, row);
    case 3: return count_tile<3, WIDE>(c, row);
  }
}

void count(const Count& c) { (c.lane_count > 16 ? count_rows<2> : count_rows<1>)(c); }

constexpr int WIDTH = 16;
using Lanes = __m512;
using Words = __m512i;
using Some = __mmask16;

INLINE Some below(int64_t count) { return count >= 16 ? 0xffff : static_cast<Some>((1u << (count > 0 ? count : 0)) - 1); }
INLINE Lanes every(float x) { return _mm512_set1_ps(x); }
INLINE Words every(int x) { return _mm512_set1_epi32(x); }
INLINE Lanes load(const float* from) { return _mm512_loadu_ps(from); }
INLINE Words load(const int32_t* from) { return _mm512_loadu_si512(from); }
INLINE Lanes load(Some wanted, const float* from) { return _mm512_maskz_loadu_ps(wanted, from); }
INLINE void store(float* to, Lanes x) { _mm512_storeu_ps(to, x); }
INLINE void store(Some wanted, float* to, Lanes x) { _mm512_mask_storeu_ps(to, wanted, x); }
INLINE void store(Some wanted, uint32_t* to, Words x) { _mm512_mask_storeu_epi32(to, wanted, x); }
INLINE Lanes times(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
INLINE Lanes plus(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
INLINE Words minus(Words a, Words b) { return _mm512_sub_epi32(a, b); }
INLINE Words doubled(Words x) { return _mm512_add_epi32(x, x); }
INLINE Lanes to_float(Words x) { return _mm512_cvtepi32_ps(x); }
INLINE Some reaches(Lanes x, Lanes threshold) { return _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ); }
INLINE Some has(Words x, uint32_t bit) { return _mm512_test_epi32_mask(x, every(static_cast<int>(bit))); }
INLINE Words with(Words x, Some where, Words bit) { return _mm512_mask_or_epi32(x, where, x, bit); }
INLINE uint32_t bits(Some wanted, Some where) { return static_cast<uint32_t>(wanted & where); }

// from[where], for 16 values and for any.
INLINE Words pick(const int32_t* from, Words where) { return _mm512_permutexvar_epi32(where, load(from)); }
INLINE Words gather(const int32_t* from, Words where) { return _mm512_i32gather_epi32(where, from, 4); }

INLINE Words levels(Lanes x, const Pack& p) {
  const Lanes raised = _mm512_max_ps(times(x, every(p.steps)), _mm512_setzero_ps());  // the second where one is a NaN
  return _mm512_cvtps_epi32(_mm512_min_ps(raised, every(static_cast<float>((1 << p.bits) - 1))));
}

#include "lanes.inl"

TARGET void lay_pairs(const Lay& l) {
  lay_plain<uint32_t>(l);
  pair(reinterpret_cast<uint32_t*>(l.panel), l.depth, LANES);
}

const Version version = {"avx512", Order::PAIRS, 16, pack_planes, pack_rows, lay_pairs, count, finish};

}  // namespace

const Version* avx512() {
  const bool have = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vpopcntdq");
  return have ? &version : nullptr;
}

}  // namespace rarefy
#else
namespace rarefy {
const Version* avx512() { return nullptr; }
}  // namespace rarefy
#endif
