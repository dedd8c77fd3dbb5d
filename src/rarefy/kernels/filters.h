// Filters in memory. Internal.
#pragma once
#include <vector>

#include "kernels.h"
#include "version.h"

struct rarefy_filters {
  const rarefy::Version* version;
  int64_t filters, channels, height, width;
  int64_t padded;                 // filters, up to a multiple of BLOCK
  int64_t words;                  // for each filter position: ceil(channels / 32)
  std::vector<uint32_t> weights;  // [padded / BLOCK][height][width][words][BLOCK]
  std::vector<int32_t> sums;      // of the weights at a position: [height][width][padded]
  std::vector<int32_t> total;     // of all weights: [padded]

  int64_t size() const { return channels * height * width; }
};
