// Filters in memory. Internal.
#pragma once
#include <stdlib.h>

#include <memory>
#include <vector>

#include "kernels.h"
#include "version.h"

namespace rarefy {

struct Free {
  void operator()(uint32_t* words) const { free(words); }
};

// Words that begin with a line of the caches, as the widest loads want them.
using Aligned = std::unique_ptr<uint32_t[], Free>;

}  // namespace rarefy

struct rarefy_filters {
  const rarefy::Version* version;
  int64_t filters, channels, height, width;
  int64_t padded;                 // filters, up to a multiple of BLOCK
  int64_t words;                  // for each filter position: ceil(channels / 32), made even for pairs
  rarefy::Aligned weights;        // [padded / BLOCK][height][width][words][BLOCK]
  std::vector<int32_t> sums;      // of the weights at a position: [height][width][padded]
  std::vector<int32_t> total;     // of all weights: [padded]

  int64_t size() const { return channels * height * width; }
};
