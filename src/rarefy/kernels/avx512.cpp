// AVX-512 with VPOPCNTDQ: sixteen filters in a register.
//
// One xor, one popcount and one addition for each register of weights would be 341 binary multiply-adds in a cycle, on
// the two ports that 512 bits have. Here words come in pairs, a and b, stored as a and a ^ b: with one bit kept in every
// place as the sum so far, a full adder of two words takes three instructions with their xor, and only its carry is
// counted: five instructions instead of six, or 409 in a cycle.
#include "version.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define INLINE TARGET static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int TILE = 4;       // pixels, whose counts stay in registers
constexpr int AHEAD = 1536;   // words of weights that are fetched before they are needed, where each is used once
constexpr int SUM = 0x96;     // of three bits
constexpr int CARRY = 0xd4;   // the first bit where the others are the same, or else the second

// Over every register of every pixel; unrolled, or the compiler keeps them in memory.
#define TILE_LOOP(p, r)                                    \
  _Pragma("GCC unroll 4") for (int p = 0; p < PIXELS; p++) \
      _Pragma("GCC unroll 2") for (int r = 0; r < 2; r++)

template <int PIXELS>
TARGET void count_tile(const Count& c, const uint32_t* const* pixels, int32_t* counts) {
  for (int b = c.planes - 1; b >= 0; b--) {
    __m512i sums[PIXELS][2], carries[PIXELS][2];
    TILE_LOOP(p, r) sums[p][r] = carries[p][r] = _mm512_setzero_si512();
    const uint32_t* weights = c.weights;
    for (int64_t s = 0; s < c.segment_count; s++) {
      const int64_t offset = b * c.plane + c.segments[s];
      for (int64_t k = offset; k < offset + c.words; k += 2, weights += 2 * BLOCK) {
        if (PIXELS == 1)
          for (int line = 0; line < 2 * BLOCK; line += 16) __builtin_prefetch(weights + AHEAD + line);
        const __m512i first[2] = {_mm512_load_si512(weights), _mm512_load_si512(weights + 16)};
        const __m512i both[2] = {_mm512_load_si512(weights + BLOCK), _mm512_load_si512(weights + BLOCK + 16)};
        TILE_LOOP(p, r) {
          const __m512i differ = _mm512_xor_si512(first[r], _mm512_set1_epi32(static_cast<int>(pixels[p][k])));
          const __m512i word = _mm512_set1_epi32(static_cast<int>(pixels[p][k + 1]));
          const __m512i sum = _mm512_ternarylogic_epi32(word, sums[p][r], both[r], SUM);
          const __m512i carry = _mm512_ternarylogic_epi32(differ, sums[p][r], sum, CARRY);
          sums[p][r] = sum;
          carries[p][r] = _mm512_add_epi32(carries[p][r], _mm512_popcnt_epi32(carry));
          __asm__ volatile("" : "+v"(sums[p][r]), "+v"(carries[p][r]));  // one after the other: registers are few
        }
      }
    }
    TILE_LOOP(p, r) {
      int32_t* to = counts + p * BLOCK + 16 * r;
      __m512i count = _mm512_add_epi32(_mm512_slli_epi32(carries[p][r], 1), _mm512_popcnt_epi32(sums[p][r]));
      if (b + 1 < c.planes) count = _mm512_add_epi32(count, _mm512_slli_epi32(_mm512_load_si512(to), 1));
      _mm512_store_si512(to, count);
    }
  }
}

void count(const Count& c) {
  static constexpr void (*tiles[])(const Count&, const uint32_t* const*, int32_t*) = {count_tile<1>, count_tile<2>,
                                                                                     count_tile<3>, count_tile<4>};
  for (int64_t i = 0; i < c.count; i += TILE) {
    const int64_t left = c.count - i;
    tiles[(left < TILE ? left : TILE) - 1](c, c.pixels + i, c.counts + i * BLOCK);
  }
}

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
INLINE void store(Some wanted, float* to, Lanes x) { _mm512_mask_storeu_ps(to, wanted, x); }
INLINE void store(Some wanted, uint32_t* to, Words x) { _mm512_mask_storeu_epi32(to, wanted, x); }
INLINE Lanes times(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
INLINE Lanes plus(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
INLINE Words minus(Words a, Words b) { return _mm512_sub_epi32(a, b); }
INLINE Words shifted(Words x, int by) { return _mm512_sll_epi32(x, _mm_cvtsi32_si128(by)); }
INLINE Words doubled(Words x) { return _mm512_add_epi32(x, x); }
INLINE Lanes to_float(Words x) { return _mm512_cvtepi32_ps(x); }
INLINE Some positive(Lanes x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ); }
INLINE Some has(Words x, uint32_t bit) { return _mm512_test_epi32_mask(x, every(static_cast<int>(bit))); }
INLINE Words with(Words x, Some where, Words bit) { return _mm512_mask_or_epi32(x, where, x, bit); }
INLINE uint32_t bits(Some wanted, Some where) { return static_cast<uint32_t>(wanted & where); }

INLINE Words levels(Lanes x, const Pack& p) {
  const Lanes raised = _mm512_max_ps(times(x, every(p.steps)), _mm512_setzero_ps());  // the second where one is a NaN
  return _mm512_cvtps_epi32(_mm512_min_ps(raised, every(static_cast<float>((1 << p.bits) - 1))));
}

// Pairs, fours, then quarters of registers.
INLINE void transpose(Lanes* r) {
  Lanes t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      const __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    t[j] = _mm512_shuffle_f32x4(r[j], r[j + 4], 0x88);
    t[j + 4] = _mm512_shuffle_f32x4(r[j], r[j + 4], 0xdd);
    t[j + 8] = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0x88);
    t[j + 12] = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    r[j] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0x88);
    r[j + 4] = _mm512_shuffle_f32x4(t[j + 4], t[j + 12], 0x88);
    r[j + 8] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0xdd);
    r[j + 12] = _mm512_shuffle_f32x4(t[j + 4], t[j + 12], 0xdd);
  }
}

#include "lanes.inl"

const Version version = {"avx512", Order::PAIRS, pack_planes, pack_rows, count, finish_planes, finish_rows, finish_words};

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
