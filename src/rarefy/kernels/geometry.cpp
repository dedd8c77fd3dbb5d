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

// Signs: the sum over n weights is n - 2 count. Integers, plane by plane: sum(weight * bit) = ones(weight) - count, and
// padding of them has no bits that count.
Base::Base(const rarefy_filters& f, const rarefy_convolution& c, const Axis& r, const Axis& k)
    : rows(r),
      columns(k),
      kinds(c.bits || c.pad_value ? 1 : static_cast<int64_t>(rows.first.size() * columns.first.size())),
      values(static_cast<size_t>(f.padded * kinds + LANES), static_cast<int32_t>(f.size())) {
  const int32_t top = (1 << c.bits) - 1;
  for (size_t i = 0; c.bits && i < f.total.size(); i++) values[i] = top * ((values[i] + f.total[i]) / 2);
  if (c.bits || c.pad_value) return;
  std::vector<int32_t> outside(f.total.size());
  for (int64_t kind = 0; kind < kinds; kind++) {
    std::fill(outside.begin(), outside.end(), 0);
    add_outside(f, static_cast<size_t>(kind), outside);
    int32_t* to = values.data() + kind;
    for (const int32_t sum : outside) *to += sum, to += kinds;
  }
}

// The sums of the weights that lie outside the image.
void Base::add_outside(const rarefy_filters& f, size_t kind, std::vector<int32_t>& sums) const {
  const size_t row = kind / columns.first.size(), column = kind % columns.first.size();
  for (int64_t y = 0; y < f.height; y++)
    for (int64_t x = 0; x < f.width; x++) {
      const bool inside = y >= rows.first[row] && y < rows.last[row];
      if (inside && x >= columns.first[column] && x < columns.last[column]) continue;
      const int32_t* of = f.sums.data() + (y * f.width + x) * f.padded;
      for (size_t i = 0; i < sums.size(); i++) sums[i] += of[i];
    }
}

void Base::find_kinds(int64_t begin, int64_t count, int64_t width, int32_t* found) const {
  std::fill(found, found + CHUNK, 0);
  for (int64_t i = 0; kinds > 1 && i < count;) {
    const int64_t x = (begin + i) % width, run = std::min(count - i, width - x);
    const int32_t width_in_kinds = static_cast<int32_t>(columns.first.size());
    const int32_t row = rows.kind[static_cast<size_t>((begin + i) / width)] * width_in_kinds;
    for (const int32_t* column = columns.kind.data() + x; column < columns.kind.data() + x + run; column++)
      found[i++] = row + *column;
  }
}

}  // namespace rarefy
