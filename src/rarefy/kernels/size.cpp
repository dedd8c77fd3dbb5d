// What a call may ask for, and how large its result is.
#include <math.h>

#include "filters.h"

namespace rarefy {
namespace {

bool between(int64_t low, int64_t value, int64_t high) { return low <= value && value <= high; }

int64_t output(int64_t size, int64_t filter, int64_t stride, int64_t dilation, int64_t padding) {
  const int64_t room = size + padding - dilation * (filter - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

const char* wrong(const rarefy_filters& f, const rarefy_convolution& c) {
  constexpr int64_t most = 1 << 24;
  for (const int64_t size : {c.channels, c.height, c.width, c.stride_h, c.stride_w, c.dilation_h, c.dilation_w})
    if (!between(1, size, most)) return "every size, stride and dilation must be from 1 to 2^24";
  for (const int64_t size : {c.batch, c.top, c.left, c.bottom, c.right})
    if (!between(0, size, most)) return "batch and padding must be from 0 to 2^24";
  if (c.channels != f.channels) return "the channels of x and of the filters differ";
  if (!between(0, c.bits, 4)) return "bits must be 0 (signs) or 1 to 4";
  if (c.bits && !(c.steps > 0.0f && c.steps < INFINITY)) return "steps must be positive and finite";
  if (!between(-1, c.pad_value, c.bits ? 0 : 1) || (c.bits && c.pad_value))
    return "the padding value must be -1, 0 or 1 for signs, and 0 for integers";
  if (c.packed_in && (c.bits || c.map)) return "packed x must be signs, and has no magnitudes";
  if (c.rows && (f.height * f.width != 1 || c.height * c.width != 1 || c.top + c.left + c.bottom + c.right || c.map))
    return "a matrix product has filters and pixels of 1 x 1, no padding and no map";
  return nullptr;
}

}  // namespace
}  // namespace rarefy

using namespace rarefy;

const char* rarefy_size(const rarefy_filters* f, const rarefy_convolution* c, int64_t size[4]) {
  if (const char* reason = wrong(*f, *c)) return reason;
  size[0] = c->batch;
  size[1] = f->filters;
  size[2] = output(c->height, f->height, c->stride_h, c->dilation_h, c->top + c->bottom);
  size[3] = output(c->width, f->width, c->stride_w, c->dilation_w, c->left + c->right);
  if (!size[2] || !size[3]) return "the filter is larger than the padded image";
  int64_t in, out;
  if (__builtin_mul_overflow((c->height + c->top + c->bottom) * (c->width + c->left + c->right), c->channels + 64, &in) ||
      __builtin_mul_overflow(size[2] * size[3], f->padded, &out) || in > int64_t{1} << 36 || out > int64_t{1} << 36)
    return "an image of more than 2^36 activations";
  return nullptr;
}
