// Plain C++: what every machine can do. The loops over BLOCK are long enough for compilers to use vectors.
#include <math.h>

#include "version.h"

namespace rarefy {
namespace {

#define TARGET
#include "portable.inl"

inline uint32_t ones(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  x += x >> 8;
  return (x + (x >> 16)) & 0x3fu;
}

void count(const Count& c) {
  for (int64_t i = 0; i < c.count; i++) {
    int32_t sums[BLOCK] = {};
    for (int b = c.planes - 1; b >= 0; b--) {
      const uint32_t* weights = c.weights;
      for (int32_t& sum : sums) sum *= 2;
      for (int64_t s = 0; s < c.segment_count; s++) {
        const uint32_t* words = c.pixels[i] + b * c.plane + c.segments[s];
        for (int64_t k = 0; k < c.words; k++, weights += BLOCK)
          for (int lane = 0; lane < BLOCK; lane++) sums[lane] += static_cast<int32_t>(ones(words[k] ^ weights[lane]));
      }
    }
    for (int lane = 0; lane < BLOCK; lane++) c.counts[i * BLOCK + lane] = sums[lane];
  }
}

}  // namespace

const Version portable = {"portable",      Order::WORDS, pack_planes_plain, pack_rows_plain,
                          count,           finish_planes_plain,      finish_rows_plain,
                          finish_words_plain};

}  // namespace rarefy
