// Runs every version on random shapes, in buffers of exactly their size, and compares them; for sanitizers.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <random>
#include <vector>

#include "kernels.h"

static std::mt19937 engine(1);

static int64_t upto(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }

template <typename T>
static std::unique_ptr<T[]> exactly(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

static std::unique_ptr<float[]> floats(int64_t count) {
  auto made = exactly<float>(count);
  for (int64_t i = 0; i < count; i++) made[static_cast<size_t>(i)] = static_cast<float>(upto(-9, 9)) / 8;
  return made;
}

// The same with numbers among them that are none, too large, or zeros of both signs.
static std::unique_ptr<float[]> odd_floats(int64_t count) {
  static constexpr float odd[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-42f, -0.0f};
  auto made = floats(count);
  for (int64_t i = upto(0, 9); i < count; i += upto(1, 20)) made[static_cast<size_t>(i)] = odd[upto(0, 7)];
  return made;
}

// Shapes of any kind: those that do not fit have to be refused.
static rarefy_convolution drawn(bool rows) {
  rarefy_convolution c = {};
  c.batch = upto(0, rows ? 20 : 2), c.channels = upto(1, 100), c.rows = rows;
  c.height = rows ? 1 : upto(1, 16), c.width = rows ? 1 : upto(1, 16);
  c.stride_h = rows ? 1 : upto(1, 3), c.stride_w = rows ? 1 : upto(1, 3);
  c.dilation_h = rows ? 1 : upto(1, 3), c.dilation_w = rows ? 1 : upto(1, 3);
  if (!rows) c.top = upto(0, 3), c.left = upto(0, 3), c.bottom = upto(0, 3), c.right = upto(0, 3);
  c.bits = upto(0, 4), c.steps = 2.0f;
  c.pad_value = c.bits || rows ? 0 : upto(-1, 1);
  c.packed_in = !c.bits && upto(0, 1);
  c.packed_out = upto(0, 1);
  c.map = !rows && !c.packed_in && upto(0, 1);
  return c;
}

int main() {
  int done = 0;
  for (int round = 0; round < 400; round++) {
    const bool rows = round % 4 == 0;
    const rarefy_convolution c = drawn(rows);
    const int64_t count = upto(1, 140), height = rows ? 1 : upto(1, 4), width = rows ? 1 : upto(1, 4);
    const int64_t bytes = count * ((c.channels * height * width + 7) / 8), words = (c.channels + 31) / 32;
    const int64_t pixels = c.batch * c.height * c.width;
    auto bits = exactly<uint8_t>(bytes);
    for (int64_t i = 0; i < bytes; i++) bits[static_cast<size_t>(i)] = static_cast<uint8_t>(engine());
    const bool shifted = !c.bits && !c.map && !c.packed_in && upto(0, 1);
    auto x = c.map ? floats(pixels * c.channels) : odd_floats(pixels * c.channels);
    auto threshold = floats(c.channels), scale = floats(count), bias = floats(count);
    auto packed = exactly<uint32_t>(pixels * words);
    for (int64_t i = 0; i < pixels * words; i++) packed[static_cast<size_t>(i)] = static_cast<uint32_t>(engine());
    std::vector<uint32_t> first;
    for (const char* version : {"portable", "avx2", "avx512", "neon"}) {
      if (!rarefy_has(version)) continue;
      setenv("RAREFY_KERNELS", version, 1);
      rarefy_filters* filters = nullptr;
      int64_t size[4];
      if (rarefy_filters_new(bits.get(), count, c.channels, height, width, &filters)) return 1;
      if (!rarefy_size(filters, &c, size)) {
        const int64_t out = size[0] * size[2] * size[3] * (c.packed_out ? (count + 31) / 32 : count);
        auto y = exactly<uint32_t>(out);
        const void* in = c.packed_in ? static_cast<const void*>(packed.get()) : x.get();
        const float* above = shifted ? threshold.get() : nullptr;
        if (rarefy_run(filters, &c, in, above, scale.get(), bias.get(), y.get(), nullptr, nullptr)) return 2;
        const std::vector<uint32_t> found(y.get(), y.get() + out);
        if (version[0] == 'p') first = found, done++;
        if (found != first) return printf("%s differs in round %d\n", version, round), 3;
      }
      rarefy_filters_free(filters);
    }
  }
  printf("%d convolutions\n", done);
  return done < 200;
}
