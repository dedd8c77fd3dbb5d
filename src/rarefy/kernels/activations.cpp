// From the caller's image to padded bits.
#include "activations.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace rarefy {
namespace {

constexpr int64_t LARGE = 1 << 18;  // activations that are worth another thread's attention

void pair(uint32_t* words, int64_t count) {
  for (int64_t i = 0; i < count; i += 2) words[i + 1] ^= words[i];
}

}  // namespace

Image::Image(const rarefy_filters& filters, const rarefy_convolution& convolution)
    : f(filters),
      c(convolution),
      planes(c.bits ? c.bits : 1),
      row((c.left + c.width + c.right) * f.words),
      plane((c.top + c.height + c.bottom) * row),
      words(static_cast<size_t>(planes * plane)) {
  if (!c.rows && !c.packed_in) planar.resize(static_cast<size_t>(planes * c.height * c.width * f.words));
  if (c.pad_value != 1) return;
  for (int64_t i = 0; i < plane; i++) {
    const int64_t channels = c.channels - i % f.words * 32;
    words[static_cast<size_t>(i)] = channels >= 32 ? ~0u : channels > 0 ? (1u << channels) - 1 : 0;
  }
  if (f.version->order == Order::PAIRS) pair(words.data(), plane);
}

uint32_t* Image::inside(int64_t y) { return words.data() + (c.top + y) * row + c.left * f.words; }

void Image::copy(const uint32_t* from) {
  const int64_t have = (c.channels + 31) / 32;
  const uint32_t last = c.channels % 32 ? (1u << c.channels % 32) - 1 : ~0u;
  for (int64_t y = 0; y < c.height; y++)
    for (int64_t i = 0; i < c.width; i++, from += have) {
      uint32_t* to = inside(y) + i * f.words;
      memcpy(to, from, static_cast<size_t>(have) * sizeof *to);
      to[have - 1] &= last;
      if (have < f.words) to[have] = 0;
    }
}

// 32 channels: to planar words first, then each into its place beside those of other channels.
void Image::pack_word(int64_t word) {
  const int64_t pixels = c.height * c.width, channels = std::max<int64_t>(0, std::min<int64_t>(32, c.channels - word * 32));
  uint32_t* from = planar.data() + word * planes * pixels;
  f.version->pack_planes(
      {x + word * 32 * pixels, pixels, channels, pixels, static_cast<int>(c.bits), c.steps, from, 0});
  for (int64_t b = 0; b < planes; b++)
    for (int64_t y = 0; y < c.height; y++) {
      uint32_t* to = inside(y) + b * plane + word;
      for (int64_t i = 0; i < c.width; i++, to += f.words) *to = *from++;
    }
}

void Image::pack(const void* from, rarefy_each each, void* context) {
  x = static_cast<const float*>(from);
  if (c.packed_in) {
    copy(static_cast<const uint32_t*>(from));
  } else if (c.rows) {
    f.version->pack_rows({x, c.channels, c.channels, c.width, static_cast<int>(c.bits), c.steps, words.data(), f.words});
  } else {
    const auto work = [](void* image, size_t word) { static_cast<Image*>(image)->pack_word(static_cast<int64_t>(word)); };
    if (c.channels * c.height * c.width >= LARGE)
      each(context, work, static_cast<size_t>(f.words), this);
    else
      for (int64_t word = 0; word < f.words; word++) pack_word(word);
  }
  if (f.version->order != Order::PAIRS) return;
  for (int64_t b = 0; b < planes; b++)
    for (int64_t y = 0; y < c.height; y++) pair(inside(y) + b * plane, c.width * f.words);
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
