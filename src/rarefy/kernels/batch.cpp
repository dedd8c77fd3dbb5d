// The rows of a matrix product as bits.
#include <algorithm>

#include "activations.h"

namespace rarefy {
namespace {

template <typename Unit>
void spread(const rarefy_filters& f, const rarefy_convolution& c, const uint32_t* words, Batch& batch) {
  const int64_t size = (c.channels + 31) / 32;
  for (int64_t b = 0; b < batch.planes; b++)
    for (int64_t i = 0; i < c.batch; i++, words += size) {
      uint8_t* block = batch.units.data() + b * batch.plane + i / ROWS * batch.block;
      for (int64_t u = 0; u < f.units; u++)
        reinterpret_cast<Unit*>(block)[u * batch.step + i % ROWS] = unit<Unit>(words, u);
    }
}

}  // namespace

Batch::Batch(const rarefy_filters& f, const rarefy_convolution& c, const void* x, const float* threshold)
    : planes(c.bits ? c.bits : 1),
      step(std::min<int64_t>(c.batch, ROWS)),
      block(f.depth * step * f.version->unit()),
      plane((c.batch + ROWS - 1) / ROWS * block),
      units(static_cast<size_t>(planes * plane + ROWS * f.version->unit())) {
  const int64_t size = (c.channels + 31) / 32;
  std::vector<uint32_t> words;
  if (c.packed_in) {
    words = without_rest(static_cast<const uint32_t*>(x), c.batch, c.channels);
  } else {
    words.resize(static_cast<size_t>(planes * c.batch * size));
    f.version->pack_rows({static_cast<const float*>(x), threshold, c.channels, c.channels, c.batch,
                          static_cast<int>(c.bits), c.steps, words.data(), size});
  }
  (f.version->unit() == 1 ? spread<uint8_t> : spread<uint32_t>)(f, c, words.data(), *this);
  if (f.version->order != Order::PAIRS) return;
  for (uint8_t* at = units.data(); at < units.data() + planes * plane; at += block)
    pair(reinterpret_cast<uint32_t*>(at), f.depth, step);
}

}  // namespace rarefy
