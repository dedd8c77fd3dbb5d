// NEON: bits are counted in bytes, at most 8 in each; sums of bytes are widened after 28 words.
#include "version.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>

#define TARGET

namespace rarefy {
namespace {

#include "portable.inl"

constexpr int PIXELS = 4;
constexpr int64_t WORDS = 28;

// 16 filters at COUNT pixels, over at most WORDS words; adds to counts, whose rows are BLOCK long.
template <int COUNT>
inline void count_words(const uint32_t* weights, const uint32_t* const* pixels, int64_t words, int32_t* counts) {
  uint8x16_t sums[COUNT][4];
  for (auto& row : sums)
    for (auto& sum : row) sum = vdupq_n_u8(0);
  for (int64_t k = 0; k < words; k++, weights += BLOCK)
    for (int p = 0; p < COUNT; p++) {
      const uint32x4_t word = vdupq_n_u32(pixels[p][k]);
      for (int r = 0; r < 4; r++) {
        const uint32x4_t differ = veorq_u32(word, vld1q_u32(weights + 4 * r));
        sums[p][r] = vaddq_u8(sums[p][r], vcntq_u8(vreinterpretq_u8_u32(differ)));
      }
    }
  for (int p = 0; p < COUNT; p++)
    for (int r = 0; r < 4; r++) {
      int32_t* to = counts + p * BLOCK + 4 * r;
      const uint32x4_t wide = vpaddlq_u16(vpaddlq_u8(sums[p][r]));
      vst1q_s32(to, vaddq_s32(vld1q_s32(to), vreinterpretq_s32_u32(wide)));
    }
}

template <int COUNT>
void count_tile(const Count& c, const uint32_t* const* pixels, int32_t* counts) {
  for (int i = 0; i < COUNT * BLOCK; i++) counts[i] = 0;
  for (int b = c.planes - 1; b >= 0; b--) {
    const uint32_t* weights = c.weights;
    for (int i = 0; i < COUNT * BLOCK; i++) counts[i] *= 2;
    for (int64_t s = 0; s < c.segment_count; s++)
      for (int64_t k = 0; k < c.words; k += WORDS) {
        const int64_t words = c.words - k < WORDS ? c.words - k : WORDS;
        const uint32_t* at[COUNT];
        for (int p = 0; p < COUNT; p++) at[p] = pixels[p] + b * c.plane + c.segments[s] + k;
        for (int lane = 0; lane < c.filters; lane += 16) count_words<COUNT>(weights + lane, at, words, counts + lane);
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

const Version version = {"neon",           Order::WORDS, pack_planes_plain, pack_rows_plain,
                         count,            finish_planes_plain,      finish_rows_plain,
                         finish_words_plain};

}  // namespace

const Version* neon() { return &version; }

}  // namespace rarefy
#else
namespace rarefy {
const Version* neon() { return nullptr; }
}  // namespace rarefy
#endif
