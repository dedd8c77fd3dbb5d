// Activations as bits. Internal.
#pragma once
#include "geometry.h"

namespace rarefy {

// Packed signs [pixels][words] as they are, but for bits after the last channel, which become 0.
std::vector<uint32_t> without_rest(const uint32_t* words, int64_t pixels, int64_t channels);

// One image at a time, with the padding around it: the side that lies across lanes.
class Image {
 public:
  Image(const rarefy_filters& filters, const rarefy_convolution& convolution, int64_t out_width);
  // x: the image, float or packed.
  void pack(const void* x, const float* threshold, rarefy_each each, void* context);
  // Brings what lies under the filter at `count` pixels of the result, at most LANES, into panels, one for each plane.
  void lay(int64_t begin, int64_t count, uint8_t* panels) const;

 private:
  const rarefy_filters& f;
  const rarefy_convolution& c;
  const int64_t out_width, planes;
  const int64_t part;           // columns x, x + stride, x + 2 stride, ... lie together, in so many units
  const int64_t row, all;       // units in a row and in all rows
  std::vector<uint8_t> units;   // [planes][units of a position][rows][stride][part], and what a copy takes too much
  std::vector<int64_t> places;  // of the units under the filter, from its first
  std::vector<uint32_t> words;  // [words][planes][pixels], before they have their places
  const float *x, *threshold;

  int64_t place(int64_t y, int64_t x) const;
  void pad();
  void pack_word(int64_t word);
  template <typename Unit>
  void spread(int64_t word, int plane, const uint32_t* from, int64_t step);
};

// The rows of a matrix product: units [planes][blocks][depth][step], and what a load of ROWS takes too much.
struct Batch {
  int64_t planes, step, block, plane;  // bytes of a block and of a plane
  std::vector<uint8_t> units;

  Batch(const rarefy_filters& f, const rarefy_convolution& c, const void* x, const float* threshold);
};

// For each pixel of the result the mean magnitude of what lies under the filter, zeros outside the image counted.
std::vector<float> magnitudes(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows,
                              const Axis& columns, const float* x);

}  // namespace rarefy
