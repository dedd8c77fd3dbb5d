// Filters in memory. Internal.
#pragma once
#include <stdlib.h>

#include <memory>
#include <vector>

#include "kernels.h"
#include "version.h"

namespace rarefy {

struct Free {
  void operator()(uint8_t* bytes) const { free(bytes); }
};

// Memory that begins with a line of the caches, as the widest loads want it; many lines of it, with a page of them.
using Aligned = std::unique_ptr<uint8_t[], Free>;
Aligned aligned(int64_t bytes);  // throws std::bad_alloc

// One of the units that words are made of.
template <typename Unit>
Unit unit(const uint32_t* words, int64_t i) {
  constexpr int64_t size = sizeof(Unit);
  return static_cast<Unit>(words[i * size / 4] >> i * size % 4 * 8);
}

}  // namespace rarefy

struct rarefy_filters {
  const rarefy::Version* version;
  int64_t filters, channels, height, width;
  int64_t padded;            // filters, up to a multiple of LANES
  int64_t units;             // for each filter position
  int64_t depth;             // units of a filter, even for pairs
  rarefy::Aligned weights;   // [padded / LANES][depth][LANES]
  std::vector<int32_t> sums;   // of the weights at a position: [height][width][padded]
  std::vector<int32_t> total;  // of all weights: [padded]

  int64_t size() const { return channels * height * width; }
  int64_t panel() const { return depth * rarefy::LANES * version->unit(); }  // bytes
};
