// What a version of the kernels (portable, AVX2, ...) has to provide. Internal.
//
// A sum belongs to a pixel and a filter. One of the two lies across the lanes of registers, in panels; values of the
// other, the rows, are spread over all lanes one by one. Images have their pixels in lanes, so that planes of floats
// are read and written as they are; matrix products have filters there.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace rarefy {

constexpr int LANES = 32;        // of a panel
constexpr int ROWS = 32;         // that are worked on together, at most
constexpr int CHUNK = 2 * LANES; // lanes that are worked on together, at most

// Counts the bits in which lanes and rows differ. Where one side has several planes, these count 1, 2, 4 and 8 times.
struct Count {
  const uint8_t* lanes;  // units [depth][LANES], at a multiple of 32 bytes at least
  const uint8_t* rows;   // units [depth][step], and ROWS more that may be read
  int64_t depth, step;
  int lane_count, row_count;  // wanted
  int planes;
  int64_t lane_plane, row_plane;  // bytes between planes; 0 for weights
  bool twice;
  int32_t* sums;     // the count or twice the count: [row][CHUNK]
  const float* out;  // where they will go, [row][out_step], to be brought near in the meantime; or null
  int64_t out_step;
};

// sums -> scale * (base - sum) * map + bias
struct Finish {
  const int32_t* sums;  // [row][CHUNK]
  int rows, lanes;
  bool product;         // base, scale and bias belong to lanes, not to rows
  const int32_t* base;  // for each filter [kinds], and a few more
  int64_t kinds;
  const int32_t* kind;  // for each lane of an image
  const float *scale, *bias;
  const float* map;  // for each lane, or null
  float* out;        // [row][step]
  int64_t step;
};

// Activations to words of 32 bits, the lowest for the first channel.
struct Pack {
  const float* x;
  const float* threshold;  // for each channel: the sign of x - threshold
  int64_t step;            // floats between channels (planes) or between pixels (rows)
  int64_t channels;        // planes: at most 32
  int64_t pixels;
  int bits;  // 0: signs
  float steps;
  uint32_t* words;  // planes: [bits][pixels]; rows: [bits][pixels][row]
  int64_t row;      // rows: words of a pixel
};

// Brings what lies under a filter at the pixels of a panel into the panel, [depth][LANES].
struct Lay {
  struct Run {
    int64_t lane, from;  // its first pixel's lane and place in the image
  };
  const uint8_t* image;
  const int64_t* places;  // of each unit, from the first
  int64_t count, depth;   // of them; further ones are zeros
  const Run* runs;        // of pixels that lie together
  int run_count;
  bool narrow;  // runs are of at most LANES / 2 pixels
  uint8_t* panel;
};

// How a version wants the words.
enum class Order {
  WORDS,
  PAIRS,  // every second word is the xor with the one before
  BYTES,
};

// [depth][width]
inline void pair(uint32_t* words, int64_t depth, int64_t width) {
  for (int64_t k = 1; k < depth; k += 2)
    for (int64_t i = 0; i < width; i++) words[k * width + i] ^= words[(k - 1) * width + i];
}

struct Version {
  const char* name;
  Order order;
  int lanes;  // that are counted together
  void (*pack_planes)(const Pack&);
  void (*pack_rows)(const Pack&);
  void (*lay)(const Lay&);
  void (*count)(const Count&);
  void (*finish)(const Finish&);

  int64_t unit() const { return order == Order::BYTES ? 1 : 4; }  // bytes
};

extern const Version portable;
const Version* avx2();  // null where this machine has it not
const Version* avx512();
const Version* neon();

// The version that RAREFY_KERNELS asks for, or the fastest; null where it cannot be had.
const Version* chosen();

}  // namespace rarefy
