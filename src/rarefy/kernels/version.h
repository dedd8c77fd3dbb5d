// What a version of the kernels (portable, AVX2, ...) has to provide. Internal.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace rarefy {

constexpr int BLOCK = 32;   // filters that are worked on together
constexpr int CHUNK = 64;   // pixels that are worked on together, at most

// Counts the bits in which filters and activations differ. Where activations have several planes, the highest comes
// first, and the count of all before is doubled.
struct Count {
  const uint32_t* weights;        // [word][BLOCK], in the version's order
  const uint32_t* const* pixels;  // where the words under the filter begin, for each pixel
  int64_t count;                  // pixels
  int filters;                    // filters wanted, at most BLOCK
  const int64_t* segments;        // where runs of words begin, from a pixel's begin
  int64_t segment_count;
  int64_t words;  // in a run
  int planes;
  int64_t plane;     // words between planes
  int32_t* counts;   // [count][BLOCK]
};

// counts -> scale * (base - (count << shift)) * map + bias
struct Finish {
  const int32_t* counts;  // [count][BLOCK]
  int64_t count;
  int filters;                 // at most BLOCK
  const int32_t* const* base;  // for each pixel [BLOCK]
  int shift;
  const float* scale;  // [BLOCK]
  const float* bias;   // [BLOCK]
  const float* map;    // for each pixel, or null
  void* out;           // of the first pixel and the first filter
  int64_t step;        // planes: floats between filters; rows: floats between pixels; words: words between pixels
};

// Activations to bits. steps is 0 for signs.
struct Pack {
  const float* x;
  int64_t step;      // floats between channels (planes) or between pixels (rows)
  int64_t channels;  // planes: at most 32
  int64_t pixels;
  int bits;  // 0: signs
  float steps;
  uint32_t* words;  // planes: [bits][pixels]; rows: [bits][pixels][row]
  int64_t row;      // rows: words of a pixel
};

enum class Order {
  WORDS,  // weights are [word][BLOCK]
  BYTES,  // [word][byte][BLOCK]
  PAIRS,  // [word][BLOCK]; of weights and of activations every odd word is the xor with the one before
};

struct Version {
  const char* name;
  Order order;
  void (*pack_planes)(const Pack&);
  void (*pack_rows)(const Pack&);
  void (*count)(const Count&);
  void (*finish_planes)(const Finish&);
  void (*finish_rows)(const Finish&);
  void (*finish_words)(const Finish&);
};

extern const Version portable;
const Version* avx2();  // null where this machine has it not
const Version* avx512();
const Version* neon();

// The version that RAREFY_KERNELS asks for, or the fastest; null where it cannot be had.
const Version* chosen();

}  // namespace rarefy
