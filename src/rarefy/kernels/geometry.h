// Which weights meet which pixels. Internal.
#pragma once
#include "filters.h"

namespace rarefy {

// Output rows (or columns) under which the same filter rows lie inside the image.
struct Axis {
  std::vector<int32_t> kind;          // of each output row
  std::vector<int64_t> first, last;   // of each kind: the filter rows inside are [first, last)
  Axis(int64_t size, int64_t out, int64_t filter, int64_t stride, int64_t dilation, int64_t before);
};

// What the sum of weight * activation is besides a multiple of the count. Padding of zeros is counted as -1, so that it
// depends on which weights lie outside the image: on the kind of a pixel.
struct Base {
  const Axis &rows, &columns;
  int64_t kinds;
  std::vector<int32_t> values;  // [padded][kinds], and a few more, for loads

  Base(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows, const Axis& columns);
  // The kinds of `count` pixels of rows that are so wide.
  void find_kinds(int64_t begin, int64_t count, int64_t width, int32_t* found) const;

 private:
  void add_outside(const rarefy_filters& f, size_t kind, std::vector<int32_t>& sums) const;
};

}  // namespace rarefy
