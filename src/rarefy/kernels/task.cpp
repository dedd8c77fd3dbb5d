// Sums of weights and activations, and what becomes of them.
#include "task.h"

#include <algorithm>

namespace rarefy {
namespace {

// Signs of [row][CHUNK] as words, one for each lane.
void columns_to_words(const float* values, int64_t count, int rows, uint32_t* to, int64_t step) {
  uint32_t words[CHUNK] = {};
  for (int row = 0; row < rows; row++)
    for (int64_t i = 0; i < CHUNK; i++) words[i] |= static_cast<uint32_t>(values[row * CHUNK + i] >= 0.0f) << row;
  for (int64_t i = 0; i < count; i++) to[i * step] = words[i];
}

// The same with one for 32 lanes of a row.
void rows_to_words(const float* values, int64_t count, int rows, uint32_t* to, int64_t step) {
  for (int row = 0; row < rows; row++, to += step, values += CHUNK) {
    to[0] = to[count > 32] = 0;
    for (int64_t i = 0; i < count; i++) to[i / 32] |= static_cast<uint32_t>(values[i] >= 0.0f) << i % 32;
  }
}

}  // namespace

Task::Task(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4],
           const Base& bases, const float* scales, const float* biases)
    : f(filters),
      c(convolution),
      rows(c.rows ? c.batch : f.filters),
      lanes(c.rows ? f.filters : size[2] * size[3]),
      out_width(size[3]),
      planes(c.bits ? c.bits : 1),
      blocks((rows + ROWS - 1) / ROWS),
      chunks((lanes + CHUNK - 1) / CHUNK),
      base(bases),
      scale(static_cast<size_t>(f.padded)),
      bias(static_cast<size_t>(f.padded)) {
  std::copy(scales, scales + f.filters, scale.begin());
  std::copy(biases, biases + f.filters, bias.begin());
}

void lay(const Task& task, int64_t chunk, uint8_t* panels) {
  const int64_t end = std::min(task.lanes, (chunk + 1) * CHUNK);
  for (int64_t i = chunk * CHUNK; i < end; i += LANES, panels += task.planes * task.f.panel())
    task.image->lay(i, std::min<int64_t>(LANES, end - i), panels);
}

Chunk::Chunk(const Task& of)
    : task(of), begin(-1), count(0), own(of.image && !of.panels ? aligned(of.panel_bytes() + SLACK) : nullptr),
      panels(own.get()) {}

void Chunk::move(int64_t index) {
  if (begin == index * CHUNK) return;
  begin = index * CHUNK, count = std::min<int64_t>(CHUNK, task.lanes - begin);
  if (!task.image) return;
  if (task.panels)
    panels = task.panels + index * task.panel_bytes();
  else
    lay(task, index, own.get());
  task.base.find_kinds(begin, count, task.out_width, kinds);
}

// With the lanes of the first panel.
Count Chunk::counting(int64_t block, int rows) {
  const int64_t panel = task.f.panel();
  const uint8_t* weights = task.f.weights.get();
  Count of = {panels, weights + block * panel, task.f.depth, LANES, 0, rows, static_cast<int>(task.planes), panel, 0,
              task.c.bits == 0, sums, nullptr, task.lanes};
  if (!task.c.packed_out) of.out = static_cast<float*>(task.y) + block * ROWS * task.lanes + begin;
  if (task.image) return of;
  of.lanes = weights + begin / LANES * panel, of.rows = task.batch->units.data() + block * task.batch->block;
  of.step = task.batch->step, of.lane_plane = 0, of.row_plane = task.batch->plane;
  return of;
}

// The pixels after those that were counted, too few for registers of them: filters in lanes instead.
void Chunk::count_tail(const Count& of, int tail) {
  alignas(64) int32_t turned[LANES * CHUNK];
  const int64_t first = of.lane_count;
  task.f.version->count({of.rows, of.lanes + first * task.f.version->unit(), of.depth, LANES, of.row_count, tail,
                         of.planes, of.row_plane, of.lane_plane, of.twice, turned, nullptr, 0});
  for (int row = 0; row < of.row_count; row++)
    for (int64_t i = 0; i < tail; i++) of.sums[row * CHUNK + first + i] = turned[i * CHUNK + row];
}

void Chunk::count_block(int64_t block, int rows) {
  Count of = counting(block, rows);
  const int64_t next = (task.image ? task.planes : 1) * task.f.panel();
  const int wide = task.f.version->lanes;
  for (int64_t i = 0; i < count; i += LANES, of.lanes += next, of.sums += LANES, of.out += of.out ? LANES : 0) {
    of.lane_count = static_cast<int>(std::min<int64_t>(LANES, count - i));
    const int tail = of.lane_count % wide;
    const bool turn = task.image && tail && 4 * tail <= 3 * wide;
    of.lane_count -= turn ? tail : 0;
    if (of.lane_count) task.f.version->count(of);
    if (turn) count_tail(of, tail);
  }
}

void Chunk::finish(int64_t block, int rows) {
  const int64_t first = task.image ? block * ROWS : begin;  // filter
  const bool words = task.c.packed_out;
  alignas(64) float values[ROWS * CHUNK];
  float* out = words ? values : static_cast<float*>(task.y) + block * ROWS * task.lanes + begin;
  const Base& base = task.base;
  task.f.version->finish({sums, rows, static_cast<int>(count), task.batch != nullptr,
                          base.values.data() + first * base.kinds, base.kinds, kinds, task.scale.data() + first,
                          task.bias.data() + first, task.c.map ? task.map.data() + begin : nullptr,
                          out, words ? CHUNK : task.lanes});
  if (!words) return;
  const int64_t step = (task.f.filters + 31) / 32;
  uint32_t* to = static_cast<uint32_t*>(task.y);
  if (task.image)
    columns_to_words(values, count, rows, to + begin * step + block, step);
  else
    rows_to_words(values, count, rows, to + block * ROWS * step + begin / 32, step);
}

void Chunk::work(int64_t block) {
  const int rows = static_cast<int>(std::min<int64_t>(ROWS, task.rows - block * ROWS));
  count_block(block, rows);
  finish(block, rows);
}

}  // namespace rarefy
