// Activations as bits, with the padding around them. Internal.
#pragma once
#include "geometry.h"

namespace rarefy {

// One image at a time; of a matrix product, all rows as one row of pixels.
struct Image {
  const rarefy_filters& f;
  const rarefy_convolution& c;
  int64_t planes, row, plane;  // words in a row of the padded image, and in all of it
  std::vector<uint32_t> words, planar;

  Image(const rarefy_filters& filters, const rarefy_convolution& convolution);
  // x: where the image begins, float or packed.
  void pack(const void* x, rarefy_each each, void* context);

 private:
  const float* x;
  uint32_t* inside(int64_t y);
  void copy(const uint32_t* from);
  void pack_word(int64_t word);
};

// For each pixel of the result the mean magnitude of what lies under the filter, zeros outside the image counted.
std::vector<float> magnitudes(const rarefy_filters& f, const rarefy_convolution& c, const Axis& rows,
                              const Axis& columns, const float* x);

}  // namespace rarefy
