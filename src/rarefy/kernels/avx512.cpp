// AVX-512 with VPOPCNTDQ: sixteen filters in a register, seven pixels times four registers of counts.
#include "version.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define INLINE TARGET static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

// Over every count of a tile; unrolled, or the compiler keeps them in memory.
#define TILE_LOOP(p, r)                          \
  _Pragma("GCC unroll 7") for (int p = 0; p < PIXELS; p++) \
      _Pragma("GCC unroll 4") for (int r = 0; r < REGISTERS; r++)

template <int PIXELS, int REGISTERS>
TARGET void count_tile(const Count& c, const uint32_t* const* pixels, int32_t* counts) {
  __m512i sums[PIXELS][REGISTERS];
  TILE_LOOP(p, r) sums[p][r] = _mm512_setzero_si512();
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint32_t* weights = c.weights;
    TILE_LOOP(p, r) sums[p][r] = _mm512_add_epi32(sums[p][r], sums[p][r]);
    for (int64_t s = 0; s < c.segment_count; s++) {
      const int64_t offset = b * c.plane + c.segments[s];
      for (int64_t k = offset; k < offset + c.words; k++, weights += BLOCK) {
        __m512i word = _mm512_setzero_si512();
        if (PIXELS == 1)  // one use of each weight: memory is what it waits for
          for (int r = 0; r < REGISTERS; r++) __builtin_prefetch(weights + 24 * BLOCK + 16 * r);
        TILE_LOOP(p, r) {
          if (r == 0) {
            word = _mm512_set1_epi32(static_cast<int>(pixels[p][k]));
            __asm__("" : "+r"(weights));  // read them again: registers for them would put counts into memory
          }
          const __m512i differ = _mm512_xor_si512(word, _mm512_loadu_si512(weights + 16 * r));
          sums[p][r] = _mm512_add_epi32(sums[p][r], _mm512_popcnt_epi32(differ));
        }
      }
    }
  }
  TILE_LOOP(p, r) _mm512_storeu_si512(counts + p * BLOCK + 16 * r, sums[p][r]);
}

template <int REGISTERS>
TARGET void count_registers(const Count& c) {
  using Tile = void (*)(const Count&, const uint32_t* const*, int32_t*);
  static constexpr Tile tiles[] = {
      count_tile<1, REGISTERS>, count_tile<2, REGISTERS>, count_tile<3, REGISTERS>, count_tile<4, REGISTERS>,
      count_tile<5, REGISTERS>, count_tile<6, REGISTERS>, count_tile<7, REGISTERS>,
  };
  for (int64_t i = 0; i < c.count; i += TILE) {
    const int64_t left = c.count - i;
    tiles[(left < TILE ? left : TILE) - 1](c, c.pixels + i, c.counts + i * BLOCK);
  }
}

void count(const Count& c) {
  static constexpr void (*by_registers[])(const Count&) = {count_registers<1>, count_registers<2>, count_registers<3>,
                                                           count_registers<4>};
  by_registers[(c.filters - 1) / 16](c);
}

// What all pixels of sixteen filters have in common.
struct Lanes {
  const Finish& f;
  int lane;
  __m512 scale, bias;
  __m128i shift;
};

INLINE Lanes lanes(const Finish& f, int lane) {
  return {f, lane, _mm512_loadu_ps(f.scale + lane), _mm512_loadu_ps(f.bias + lane), _mm_cvtsi32_si128(f.shift)};
}

template <bool MAP>
INLINE __m512 values(const Lanes& l, int64_t pixel) {
  const __m512i counts = _mm512_loadu_si512(l.f.counts + pixel * BLOCK + l.lane);
  const __m512i base = _mm512_loadu_si512(l.f.base[pixel] + l.lane);
  const __m512i sum = _mm512_sub_epi32(base, _mm512_sll_epi32(counts, l.shift));
  __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), l.scale);
  if (MAP) value = _mm512_mul_ps(value, _mm512_set1_ps(l.f.map[pixel]));
  return _mm512_add_ps(value, l.bias);
}

INLINE __m512 any_values(const Lanes& l, int64_t pixel) {
  return l.f.map ? values<true>(l, pixel) : values<false>(l, pixel);
}

INLINE __mmask16 below(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

// Sixteen rows of sixteen become columns: pairs, fours, then quarters of registers.
INLINE void transpose(__m512* r) {
  __m512 t[16];
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

// One pixel, such as the last of 7 x 7.
TARGET void scatter(const Lanes& l, int64_t pixel) {
  const __m512 value = any_values(l, pixel);
  const __mmask16 wanted = below(l.f.filters - l.lane);
  const __m512i steps = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(l.f.step));
  float* first = static_cast<float*>(l.f.out) + l.lane * l.f.step + pixel;
  const __mmask8 low = static_cast<__mmask8>(wanted), high = static_cast<__mmask8>(wanted >> 8);
  _mm512_mask_i64scatter_ps(first, low, steps, _mm512_castps512_ps256(value), 4);
  if (high) _mm512_mask_i64scatter_ps(first + 8 * l.f.step, high, steps, _mm512_extractf32x8_ps(value, 1), 4);
}

template <bool MAP>
TARGET void finish_lanes(const Lanes& l) {
  const Finish& f = l.f;
  float* out = static_cast<float*>(f.out) + l.lane * f.step;
  const int filters = f.filters - l.lane;
  for (int64_t i = 0; i < f.count; i += 16) {
    const int64_t pixels = f.count - i < 16 ? f.count - i : 16;
    if (pixels == 1) {
      scatter(l, i);
      continue;
    }
    __m512 rows[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) rows[j] = values<MAP>(l, i + (j < pixels ? j : 0));
    transpose(rows);
    const __mmask16 wanted = below(pixels);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++)
      if (j < filters) _mm512_mask_storeu_ps(out + j * f.step + i, wanted, rows[j]);
  }
}

TARGET void finish_planes(const Finish& f) {
  for (int lane = 0; lane < f.filters; lane += 16) (f.map ? finish_lanes<true> : finish_lanes<false>)(lanes(f, lane));
}

TARGET void finish_rows(const Finish& f) {
  float* out = static_cast<float*>(f.out);
  for (int lane = 0; lane < f.filters; lane += 16) {
    const Lanes l = lanes(f, lane);
    for (int64_t i = 0; i < f.count; i++)
      _mm512_mask_storeu_ps(out + i * f.step + lane, below(f.filters - lane), any_values(l, i));
  }
}

TARGET void finish_words(const Finish& f) {
  uint32_t* out = static_cast<uint32_t*>(f.out);
  for (int lane = 0; lane < f.filters; lane += 16) {
    const Lanes l = lanes(f, lane);
    for (int64_t i = 0; i < f.count; i++) {
      const __mmask16 wanted = below(f.filters - lane);
      const uint32_t bits = _mm512_mask_cmp_ps_mask(wanted, any_values(l, i), _mm512_setzero_ps(), _CMP_GE_OQ);
      uint32_t& word = out[i * f.step + lane / 32];
      word = lane % 32 ? word | bits << 16 : bits;
    }
  }
}

INLINE __m512i levels(__m512 x, const Pack& p) {
  const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(p.steps));
  const __m512 raised = _mm512_max_ps(scaled, _mm512_setzero_ps());  // the second operand where one is a NaN
  return _mm512_cvtps_epi32(_mm512_min_ps(raised, _mm512_set1_ps(static_cast<float>((1 << p.bits) - 1))));
}

template <int PLANES>
TARGET void pack_levels(const Pack& p) {
  for (int64_t i = 0; i < p.pixels; i += 16) {
    const __mmask16 wanted = below(p.pixels - i);
    __m512i words[PLANES];
    for (auto& word : words) word = _mm512_setzero_si512();
    for (int64_t c = 0; c < p.channels; c++) {
      const __m512i q = levels(_mm512_maskz_loadu_ps(wanted, p.x + c * p.step + i), p);
      for (int b = 0; b < PLANES; b++) {
        const __mmask16 set = _mm512_test_epi32_mask(q, _mm512_set1_epi32(1 << b));
        words[b] = _mm512_mask_or_epi32(words[b], set, words[b], _mm512_set1_epi32(static_cast<int>(1u << c)));
      }
    }
    for (int b = 0; b < PLANES; b++) _mm512_mask_storeu_epi32(p.words + b * p.pixels + i, wanted, words[b]);
  }
}

TARGET void pack_signs(const Pack& p) {
  for (int64_t i = 0; i < p.pixels; i += 16) {
    const __mmask16 wanted = below(p.pixels - i);
    __m512i word = _mm512_setzero_si512(), bit = _mm512_set1_epi32(1);
    for (int64_t c = 0; c < p.channels; c++, bit = _mm512_add_epi32(bit, bit)) {
      const __m512 x = _mm512_maskz_loadu_ps(wanted, p.x + c * p.step + i);
      word = _mm512_mask_or_epi32(word, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), word, bit);
    }
    _mm512_mask_storeu_epi32(p.words + i, wanted, word);
  }
}

void pack_planes(const Pack& p) {
  static constexpr void (*by_bits[])(const Pack&) = {pack_signs, pack_levels<1>, pack_levels<2>, pack_levels<3>,
                                                     pack_levels<4>};
  by_bits[p.bits](p);
}

TARGET void pack_rows(const Pack& p) {
  if (p.bits) return pack_rows_plain(p);
  const int64_t words = (p.channels + 31) / 32;
  for (int64_t i = 0; i < p.pixels; i++)
    for (int64_t w = 0; w < words; w++) {
      uint32_t halves[2] = {0, 0};
      for (int h = 0; h < 2; h++) {
        const int64_t first = w * 32 + h * 16;
        if (first >= p.channels) break;
        const __mmask16 wanted = below(p.channels - first);
        const __m512 x = _mm512_maskz_loadu_ps(wanted, p.x + i * p.step + first);
        halves[h] = _mm512_mask_cmp_ps_mask(wanted, x, _mm512_setzero_ps(), _CMP_GE_OQ);
      }
      p.words[i * words + w] = halves[0] | halves[1] << 16;
    }
}

const Version version = {"avx512", false, pack_planes, pack_rows, count, finish_planes, finish_rows, finish_words};

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
