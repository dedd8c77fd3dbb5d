// NEON: bits are counted in bytes, at most 8 in each; sums of bytes are widened after 28 words.
#include "version.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#define TARGET
#define INLINE static inline __attribute__((always_inline))

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int TILE = 4;
constexpr int64_t WORDS = 28;

// HIGH rows at 16 lanes, over at most WORDS words; adds to sums, whose rows are CHUNK long.
template <int HIGH>
inline void count_words(const uint32_t* lanes, const uint32_t* rows, int64_t step, int64_t words, int32_t* sums) {
  uint8x16_t bytes[HIGH][4];
  for (auto& row : bytes)
    for (auto& sum : row) sum = vdupq_n_u8(0);
  for (int64_t k = 0; k < words; k++, lanes += LANES, rows += step)
    for (int r = 0; r < HIGH; r++) {
      const uint32x4_t word = vdupq_n_u32(rows[r]);
      for (int v = 0; v < 4; v++) {
        const uint32x4_t differ = veorq_u32(word, vld1q_u32(lanes + 4 * v));
        bytes[r][v] = vaddq_u8(bytes[r][v], vcntq_u8(vreinterpretq_u8_u32(differ)));
      }
    }
  for (int r = 0; r < HIGH; r++)
    for (int v = 0; v < 4; v++) {
      int32_t* to = sums + r * CHUNK + 4 * v;
      const uint32x4_t wide = vpaddlq_u16(vpaddlq_u8(bytes[r][v]));
      vst1q_s32(to, vaddq_s32(vld1q_s32(to), vreinterpretq_s32_u32(wide)));
    }
}

void twice(int32_t* sums, int rows) {
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < LANES; i++) sums[r * CHUNK + i] *= 2;
}

template <int HIGH>
void count_tile(const Count& c, int row) {
  int32_t* const sums = c.sums + row * CHUNK;
  for (int r = 0; r < HIGH; r++) memset(sums + r * CHUNK, 0, LANES * sizeof *sums);
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint32_t* lanes = reinterpret_cast<const uint32_t*>(c.lanes + b * c.lane_plane);
    const uint32_t* rows = reinterpret_cast<const uint32_t*>(c.rows + b * c.row_plane) + row;
    for (int64_t k = 0; k < c.depth; k += WORDS)
      for (int i = 0; i < c.lane_count; i += 16)
        count_words<HIGH>(lanes + k * LANES + i, rows + k * c.step, c.step, c.depth - k < WORDS ? c.depth - k : WORDS,
                          sums + i);
    if (b > 0 || c.twice) twice(sums, HIGH);
  }
}

void count(const Count& c) {
  static constexpr void (*tiles[])(const Count&, int) = {count_tile<1>, count_tile<2>, count_tile<3>, count_tile<4>};
  for (int row = 0; row < c.row_count; row += TILE) {
    const int left = c.row_count - row;
    tiles[(left < TILE ? left : TILE) - 1](c, row);
  }
}

constexpr int WIDTH = 4;
using Lanes = float32x4_t;
using Words = int32x4_t;
using Some = uint32x4_t;

INLINE Lanes every(float x) { return vdupq_n_f32(x); }
INLINE Words every(int x) { return vdupq_n_s32(x); }
INLINE Some below(int64_t count) {
  static constexpr int32_t places[] = {0, 1, 2, 3};
  return vcgtq_s32(every(static_cast<int>(count < 4 ? count : 4)), vld1q_s32(places));
}
INLINE Lanes load(const float* from) { return vld1q_f32(from); }
INLINE Words load(const int32_t* from) { return vld1q_s32(from); }

// How many the first ones are, of which all before a wanted one are wanted too.
INLINE int length(Some wanted) { return -vaddvq_s32(vreinterpretq_s32_u32(wanted)); }

INLINE Lanes load(Some wanted, const float* from) {
  if (length(wanted) == 4) return load(from);
  float some[4] = {};
  memcpy(some, from, static_cast<size_t>(length(wanted)) * sizeof *some);
  return vld1q_f32(some);
}
INLINE void store(float* to, Lanes x) { vst1q_f32(to, x); }
template <typename Number, typename Vector>
INLINE void store(Some wanted, Number* to, Vector x) {
  memcpy(to, &x, static_cast<size_t>(length(wanted)) * sizeof *to);
}
INLINE Lanes times(Lanes a, Lanes b) { return vmulq_f32(a, b); }
INLINE Lanes plus(Lanes a, Lanes b) { return vaddq_f32(a, b); }
INLINE Words minus(Words a, Words b) { return vsubq_s32(a, b); }
INLINE Words doubled(Words x) { return vaddq_s32(x, x); }
INLINE Lanes to_float(Words x) { return vcvtq_f32_s32(x); }
INLINE Some reaches(Lanes x, Lanes threshold) { return vcgeq_f32(x, threshold); }
INLINE Some has(Words x, uint32_t bit) { return vtstq_s32(x, every(static_cast<int>(bit))); }
INLINE Words with(Words x, Some where, Words bit) { return vorrq_s32(x, vandq_s32(vreinterpretq_s32_u32(where), bit)); }
INLINE uint32_t bits(Some wanted, Some where) {
  static constexpr uint32_t places[] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vandq_u32(wanted, where), vld1q_u32(places)));
}

// from[where], for any values; there is no faster way for few.
INLINE Words gather(const int32_t* from, Words where) {
  const int32_t found[] = {from[vgetq_lane_s32(where, 0)], from[vgetq_lane_s32(where, 1)],
                           from[vgetq_lane_s32(where, 2)], from[vgetq_lane_s32(where, 3)]};
  return vld1q_s32(found);
}
INLINE Words pick(const int32_t* from, Words where) { return gather(from, where); }

INLINE Words levels(Lanes x, const Pack& p) {
  const Lanes raised = vmaxnmq_f32(times(x, every(p.steps)), every(0.0f));  // the number where one is a NaN
  return vcvtnq_s32_f32(vminq_f32(raised, every(static_cast<float>((1 << p.bits) - 1))));
}

#include "lanes.inl"

const Version version = {"neon", Order::WORDS, 16, pack_planes, pack_rows, lay_plain<uint32_t>, count, finish};

}  // namespace

const Version* neon() { return &version; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* neon() { return nullptr; }
}  // namespace rarefy
#endif
