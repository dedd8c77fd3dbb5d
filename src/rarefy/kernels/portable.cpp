// Plain C++: what every machine can do. The loops over LANES are long enough for compilers to use vectors.
#include <math.h>
#include <string.h>

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
  for (int row = 0; row < c.row_count; row++) {
    int32_t sums[LANES] = {};
    for (int b = c.planes - 1; b >= 0; b--) {
      const uint32_t* lanes = reinterpret_cast<const uint32_t*>(c.lanes + b * c.lane_plane);
      const uint32_t* rows = reinterpret_cast<const uint32_t*>(c.rows + b * c.row_plane) + row;
      for (int32_t& sum : sums) sum *= 2;
      for (int64_t k = 0; k < c.depth; k++, lanes += LANES, rows += c.step)
        for (int i = 0; i < LANES; i++) sums[i] += static_cast<int32_t>(ones(*rows ^ lanes[i]));
    }
    for (int i = 0; i < LANES; i++) c.sums[row * CHUNK + i] = sums[i] << c.twice;
  }
}

}  // namespace

const Version portable = {"portable",      Order::WORDS,        LANES, pack_planes_plain,
                          pack_rows_plain, lay_plain<uint32_t>, count, finish_plain};

}  // namespace rarefy
