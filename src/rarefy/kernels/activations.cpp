// From the caller's image to padded bits, and from those to panels.
#include "activations.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace rarefy {
namespace {

constexpr int64_t LARGE = 1 << 18;  // activations that are worth another thread's attention

}  // namespace

std::vector<uint32_t> without_rest(const uint32_t* words, int64_t pixels, int64_t channels) {
  const int64_t size = (channels + 31) / 32;
  std::vector<uint32_t> made(words, words + pixels * size);
  for (int64_t i = size - 1; channels % 32 && i < pixels * size; i += size)
    made[static_cast<size_t>(i)] &= (1u << channels % 32) - 1;
  return made;
}

Image::Image(const rarefy_filters& filters, const rarefy_convolution& convolution, int64_t width)
    : f(filters),
      c(convolution),
      out_width(width),
      planes(c.bits ? c.bits : 1),
      part((c.left + c.width + c.right + c.stride_w - 1) / c.stride_w),
      row(c.stride_w * part),
      all((c.top + c.height + c.bottom) * row),
      units(static_cast<size_t>((planes * f.units * all + LANES) * f.version->unit())),
      words(c.packed_in ? 0 : static_cast<size_t>((c.channels + 31) / 32 * planes * c.height * c.width)) {
  for (int64_t y = 0; y < f.height; y++)
    for (int64_t k = 0; k < f.width; k++)
      for (int64_t u = 0; u < f.units; u++) places.push_back(u * all + place(y * c.dilation_h, k * c.dilation_w));
  if (c.pad_value == 1) pad();
}

int64_t Image::place(int64_t y, int64_t column) const {
  return y * row + column % c.stride_w * part + column / c.stride_w;
}

// Fills all with +1, for those channels that there are.
void Image::pad() {
  std::vector<uint32_t> ones(static_cast<size_t>((c.channels + 31) / 32), ~0u);
  if (c.channels % 32) ones.back() = (1u << c.channels % 32) - 1;
  for (int64_t u = 0; u < f.units; u++) {
    if (f.version->unit() == 1)
      memset(units.data() + u * all, unit<uint8_t>(ones.data(), u), static_cast<size_t>(all));
    else
      std::fill_n(reinterpret_cast<uint32_t*>(units.data()) + u * all, all, ones[static_cast<size_t>(u)]);
  }
}

// A word of every pixel, each unit of it into its plane.
template <typename Unit>
void Image::spread(int64_t word, int plane, const uint32_t* from, int64_t step) {
  constexpr int64_t PARTS = 4 / sizeof(Unit);
  const int64_t stride = c.stride_w, width = c.width;
  for (int64_t u = word * PARTS; u < std::min(f.units, (word + 1) * PARTS); u++) {
    Unit* to = reinterpret_cast<Unit*>(units.data()) + (plane * f.units + u) * all + c.top * row;
    for (int64_t y = 0; y < c.height; y++, to += row)
      for (int64_t first = 0; first < std::min(stride, width); first++) {
        Unit* const at = to + place(0, c.left + first);
        const uint32_t* pixel = from + (y * width + first) * step;
        if (stride == 1 && step == 1)  // in vectors
          for (int64_t i = 0; i < width; i++) at[i] = unit<Unit>(pixel + i, u % PARTS);
        else
          for (int64_t i = 0; first + i * stride < width; i++) at[i] = unit<Unit>(pixel + i * stride * step, u % PARTS);
      }
  }
}

void Image::pack_word(int64_t word) {
  const int64_t pixels = c.height * c.width;
  uint32_t* to = words.data() + word * planes * pixels;
  const int64_t channels = std::min<int64_t>(32, c.channels - word * 32);
  f.version->pack_planes({x + word * 32 * pixels, threshold + word * 32, pixels, channels, pixels,
                          static_cast<int>(c.bits), c.steps, to, 0});
  for (int b = 0; b < planes; b++, to += pixels)
    f.version->unit() == 1 ? spread<uint8_t>(word, b, to, 1) : spread<uint32_t>(word, b, to, 1);
}

void Image::pack(const void* from, const float* thresholds, rarefy_each each, void* context) {
  const int64_t count = (c.channels + 31) / 32;
  if (c.packed_in) {
    words = without_rest(static_cast<const uint32_t*>(from), c.height * c.width, c.channels);
    for (int64_t word = 0; word < count; word++) {
      const uint32_t* first = words.data() + word;
      f.version->unit() == 1 ? spread<uint8_t>(word, 0, first, count) : spread<uint32_t>(word, 0, first, count);
    }
    return;
  }
  x = static_cast<const float*>(from), threshold = thresholds;
  const auto work = [](void* image, size_t word) { static_cast<Image*>(image)->pack_word(static_cast<int64_t>(word)); };
  if (c.channels * c.height * c.width >= LARGE)
    each(context, work, static_cast<size_t>(count), this);
  else
    for (int64_t word = 0; word < count; word++) pack_word(word);
}

void Image::lay(int64_t begin, int64_t count, uint8_t* panels) const {
  Lay::Run runs[LANES];
  int length = 0;
  for (int64_t i = 0, x; i < count; i += out_width - x) {
    x = (begin + i) % out_width;
    runs[length++] = {i, (begin + i) / out_width * c.stride_h * row + x};
  }
  const int64_t plane = f.units * all * f.version->unit();
  for (int64_t b = 0; b < planes; b++)
    f.version->lay({units.data() + b * plane, places.data(), static_cast<int64_t>(places.size()), f.depth, runs, length,
                    out_width <= LANES / 2, panels + b * f.panel()});
}

std::vector<float> magnitudes(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows,
                              const Axis& columns, const float* x) {
  const int64_t pixels = c.height * c.width;
  std::vector<float> sums(static_cast<size_t>(pixels)), map;
  for (int64_t k = 0; k < c.channels; k++)
    for (int64_t i = 0; i < pixels; i++) sums[static_cast<size_t>(i)] += fabsf(x[k * pixels + i]);
  const float share = 1.0f / static_cast<float>(f.size());
  for (size_t y = 0; y < rows.kind.size(); y++)
    for (size_t z = 0; z < columns.kind.size(); z++) {
      const size_t r = static_cast<size_t>(rows.kind[y]), k = static_cast<size_t>(columns.kind[z]);
      const int64_t up = static_cast<int64_t>(y) * c.stride_h - c.top;
      const int64_t across = static_cast<int64_t>(z) * c.stride_w - c.left;
      float sum = 0.0f;
      for (int64_t i = rows.first[r]; i < rows.last[r]; i++)
        for (int64_t j = columns.first[k]; j < columns.last[k]; j++)
          sum += sums[static_cast<size_t>((up + i * c.dilation_h) * c.width + across + j * c.dilation_w)];
      map.push_back(sum * share);
    }
  return map;
}

}  // namespace rarefy
