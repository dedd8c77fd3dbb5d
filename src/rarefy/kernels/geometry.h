// Which weights meet which pixels. Internal.
#pragma once
#include "filters.h"

namespace rarefy {

// Output rows (or columns) under which the same filter rows lie inside the image.
struct Axis {
  std::vector<int32_t> kind;                       // of each output row
  std::vector<int64_t> first, last;                // of each kind: the filter rows inside are [first, last)
  Axis(int64_t size, int64_t out, int64_t filter, int64_t stride, int64_t dilation, int64_t before);
};

// What the count of differing bits is taken from: [row kind][column kind][padded filters].
struct Base {
  std::vector<int32_t> values;
  int shift;  // base - (count << shift) is the sum of weight * activation
  Base(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows, const Axis& columns);
};

}  // namespace rarefy
