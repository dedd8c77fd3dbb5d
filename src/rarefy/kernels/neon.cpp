// NEON: bits are counted in bytes, at most 8 in each; sums of bytes are widened after 28 words.
#include "version.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#define TARGET

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

const Version version = {"neon",     Order::WORDS,        16,    pack_planes_plain, pack_rows_plain,
                         lay_plain<uint32_t>, count, finish_plain};

}  // namespace

const Version* neon() { return &version; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* neon() { return nullptr; }
}  // namespace rarefy
#endif
