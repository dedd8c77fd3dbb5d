#include "geometry.h"

#include <algorithm>

namespace rarefy {

Axis::Axis(int64_t size, int64_t out, int64_t filter, int64_t stride, int64_t dilation, int64_t before) {
  for (int64_t o = 0; o < out; o++) {
    const int64_t begin = o * stride - before;  // where the filter's first row lies
    const int64_t from = begin >= 0 ? 0 : std::min(filter, (-begin + dilation - 1) / dilation);
    const int64_t to = begin >= size ? from : std::max(from, std::min(filter, (size - begin + dilation - 1) / dilation));
    size_t k = 0;
    while (k < first.size() && (first[k] != from || last[k] != to)) k++;
    if (k == first.size()) first.push_back(from), last.push_back(to);
    kind.push_back(static_cast<int32_t>(k));
  }
}

// Signs: the sum over n weights is n - 2 count, padding counted as -1; where it is zero, its weights are added again.
// Integers, plane by plane: sum(weight * bit) = ones(weight) - count, and padding is nothing.
Base::Base(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows, const Axis& columns) {
  const int64_t kinds = static_cast<int64_t>(columns.first.size()), padded = f.padded;
  values.resize(rows.first.size() * columns.first.size() * static_cast<size_t>(padded));
  shift = c.bits ? 0 : 1;
  const int32_t top = (1 << c.bits) - 1, size = static_cast<int32_t>(f.size());
  for (size_t r = 0; r < rows.first.size(); r++)
    for (int64_t k = 0; k < kinds; k++) {
      int32_t* base = values.data() + (static_cast<int64_t>(r) * kinds + k) * padded;
      const size_t column = static_cast<size_t>(k);
      const int64_t inside = (rows.last[r] - rows.first[r]) * (columns.last[column] - columns.first[column]);
      if (c.bits) {
        for (int64_t i = 0; i < padded; i++) base[i] = top * ((size + f.total[static_cast<size_t>(i)]) / 2);
        continue;
      }
      std::fill(base, base + padded, size);
      if (c.pad_value || inside == f.height * f.width) continue;
      for (int64_t y = 0; y < f.height; y++)
        for (int64_t x = 0; x < f.width; x++) {
          if (y >= rows.first[r] && y < rows.last[r] && x >= columns.first[column] && x < columns.last[column]) continue;
          const int32_t* sums = f.sums.data() + (y * f.width + x) * padded;
          for (int64_t i = 0; i < padded; i++) base[i] += sums[i];
        }
    }
}

}  // namespace rarefy
