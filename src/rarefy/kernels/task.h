// What is worked on together. Internal.
#pragma once
#include <atomic>

#include "activations.h"

namespace rarefy {

// Which sums are wanted, and what they become. Rows are the filters of an image, or what a matrix product takes.
struct Task {
  const rarefy_filters& f;
  const rarefy_convolution& c;
  const int64_t rows, lanes, out_width, planes;
  const int64_t blocks, chunks;  // of ROWS and of CHUNK
  const Base& base;
  std::vector<float> scale, bias, map;
  const Image* image = nullptr;  // or else a batch
  const Batch* batch = nullptr;
  uint8_t* panels = nullptr;  // of all chunks, or null: every piece of the work makes those that it needs
  void* y = nullptr;
  int64_t pieces = 1;
  std::atomic<bool> failed{false};

  Task(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4], const Base& base,
       const float* scales, const float* biases);
  int64_t panel_bytes() const { return 2 * planes * f.panel(); }  // of a chunk
};

// CHUNK lanes, and all there is to know of them for any row.
class Chunk {
 public:
  explicit Chunk(const Task& task);
  void move(int64_t index);
  // The block of rows, from activations to the result.
  void work(int64_t block);

 private:
  const Task& task;
  int64_t begin, count;
  Aligned own;
  const uint8_t* panels;
  alignas(64) int32_t kinds[CHUNK];
  alignas(64) int32_t sums[ROWS * CHUNK];

  Count counting(int64_t block, int rows);
  void count_tail(const Count& of, int tail);
  void count_block(int64_t block, int rows);
  void finish(int64_t block, int rows);
};

// Brings an image into panels [2][planes], and writes up to SLACK bytes more.
constexpr int64_t SLACK = 4 * LANES;
void lay(const Task& task, int64_t chunk, uint8_t* panels);

}  // namespace rarefy
