// The plain C interface of the binary kernels and the entropy coder. Every function that can fail returns null, or what is wrong in words.
//
// Weights are +1 or -1, activations +1 or -1 (the sign, +1 at zero) or unsigned integers of one to four bits.
//     y = scale[filter] * (map[pixel] *) sum(weight * activation) + bias[filter]
// The sum is exact; it is rounded to float once, and each product and sum after it once.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define RAREFY_API extern "C" __attribute__((visibility("default")))

// Grows by one with every change of this interface.
#define RAREFY_INTERFACE 3

// Filters as a kernel version wants them. May be used by many threads at once.
struct rarefy_filters;

// One convolution. With `rows` it is a matrix product: x is [batch, channels] and y [batch, filters].
struct rarefy_convolution {
  int64_t batch, channels, height, width;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  int64_t top, left, bottom, right;  // padding
  int64_t pad_value;                 // of the activation: -1, 0 or 1; 0 where `bits` is not 0
  int64_t bits;                      // 0: signs; 1 to 4: round(clip(x * steps, 0, 2^bits - 1)), half to even
  int64_t map;                       // 1: multiply by the mean magnitude of what lies under the filter
  int64_t rows;                      // 1: matrix product
  int64_t packed_in, packed_out;     // 1: 32-bit words of signs, [batch, height, width, words], low bit first
  float steps;                       // activation levels for each unit of x
};

// Calls work(argument, i) for every i below `count`, in any order, maybe at once.
typedef void (*rarefy_each)(void* context, void (*work)(void*, size_t), size_t count, void* argument);

RAREFY_API int rarefy_interface(void);
// The version in use: "avx512", "avx2", "neon" or "portable"; null where RAREFY_KERNELS asks for one this CPU has not.
RAREFY_API const char* rarefy_version(void);
// 1 where this library and CPU have the version of that name.
RAREFY_API int rarefy_has(const char* version);

// bits: [filters, ceil(channels * height * width / 8)], low bit first, 1 for +1.
RAREFY_API const char* rarefy_filters_new(const uint8_t* bits, int64_t filters, int64_t channels, int64_t height,
                                          int64_t width, rarefy_filters** made);
RAREFY_API void rarefy_filters_free(rarefy_filters* filters);

// Checks everything; size becomes [batch, filters, height, width] of the output.
RAREFY_API const char* rarefy_size(const rarefy_filters* filters, const rarefy_convolution* convolution, int64_t size[4]);
// threshold: for each channel, the sign is that of x - threshold; null for zeros, as for all but signs of floats without
// a map. each: null for the calling thread alone.
RAREFY_API const char* rarefy_run(const rarefy_filters* filters, const rarefy_convolution* convolution, const void* x,
                                  const float* threshold, const float* scale, const float* bias, void* y,
                                  rarefy_each each, void* context);

// A stack of symbols: `words` up to `at`, and `state`. Symbol i of `size` has the 24-bit quantiles from bounds[i] to
// bounds[i + 1]; bounds[size] is 2^24, and no two are the same.
struct rarefy_ans {
  uint64_t state;
  uint32_t* words;
  int64_t at;
};

// Pushes `count` symbols of 1, 2 or 4 `bytes`, the last first; `words` must have room for one each. 0 without memory.
RAREFY_API int rarefy_ans_encode(const void* symbols, int64_t bytes, int64_t count, const uint32_t* bounds,
                                 int64_t size, rarefy_ans* coder);
// Pops `count` symbols, whatever the words are.
RAREFY_API void rarefy_ans_decode(void* symbols, int64_t bytes, int64_t count, const uint32_t* bounds, int64_t size,
                                  rarefy_ans* coder);
