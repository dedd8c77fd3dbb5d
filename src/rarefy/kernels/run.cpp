// A call: activations to bits, and the rest of the work cut into pieces that any threads may take.
#include <algorithm>
#include <new>

#include "task.h"

namespace rarefy {
namespace {

constexpr int64_t PIECE = 1 << 24;  // weights times pixels that are worth another thread's attention

void work(void* argument, size_t number) {
  Task& task = *static_cast<Task*>(argument);
  const int64_t all = task.chunks * task.blocks, piece = static_cast<int64_t>(number);
  try {
    Chunk chunk(task);
    for (int64_t i = all * piece / task.pieces; i < all * (piece + 1) / task.pieces; i++) {
      chunk.move(i / task.blocks);
      chunk.work(i % task.blocks);
    }
  } catch (const std::bad_alloc&) {
    task.failed = true;
  }
}

void alone(void*, void (*work)(void*, size_t), size_t count, void* argument) {
  for (size_t i = 0; i < count; i++) work(argument, i);
}

struct Data {
  const void* x;
  const float* threshold;
  void* y;
};

struct Threads {
  rarefy_each each;
  void* context;

  void run(Task& task) const { each(context, work, static_cast<size_t>(task.pieces), &task); }
};

void run_images(Task& task, Data data, const int64_t size[4], Threads threads) {
  const rarefy_filters& f = task.f;
  const rarefy_convolution& c = task.c;
  Image image(f, c, size[3]);
  task.image = &image;
  const Aligned panels = task.chunks < task.pieces ? aligned(task.chunks * task.panel_bytes() + SLACK) : nullptr;
  task.panels = panels.get();
  const int64_t in = c.height * c.width * (c.packed_in ? (c.channels + 31) / 32 : c.channels);  // words of an image
  const int64_t out = task.lanes * (c.packed_out ? (f.filters + 31) / 32 : f.filters);
  for (int64_t i = 0; i < c.batch; i++) {
    const float* x = static_cast<const float*>(data.x) + i * in;
    image.pack(x, data.threshold, threads.each, threads.context);
    for (int64_t k = 0; task.panels && k < task.chunks; k++) lay(task, k, task.panels + k * task.panel_bytes());
    if (c.map) task.map = magnitudes(f, c, task.base.rows, task.base.columns, x);
    task.y = static_cast<float*>(data.y) + i * out;
    threads.run(task);
  }
}

// False without memory.
bool run(Task& task, Data data, const int64_t size[4], Threads threads) {
  const rarefy_filters& f = task.f;
  const int64_t each = f.size() * f.padded, many = task.c.rows ? task.rows : task.lanes;
  const int64_t worth = each / PIECE * many + each % PIECE * many / PIECE;
  task.pieces = std::max<int64_t>(1, std::min(task.blocks * task.chunks, worth));
  const std::vector<float> zeros(data.threshold ? 0 : static_cast<size_t>(f.channels));
  if (!data.threshold) data.threshold = zeros.data();
  if (!task.c.rows) {
    run_images(task, data, size, threads);
    return !task.failed;
  }
  const Batch batch(f, task.c, data.x, data.threshold);
  task.batch = &batch, task.y = data.y;
  threads.run(task);
  return !task.failed;
}

}  // namespace
}  // namespace rarefy

using namespace rarefy;

const char* rarefy_run(const rarefy_filters* f, const rarefy_convolution* c, const void* x, const float* threshold,
                       const float* scale, const float* bias, void* y, rarefy_each each, void* context) {
  int64_t size[4];
  if (const char* reason = rarefy_size(f, c, size)) return reason;
  if (threshold && (c->bits || c->map || c->packed_in)) return "thresholds belong to signs of floats, without a map";
  if (!c->batch) return nullptr;
  try {
    const Axis rows(c->height, size[2], f->height, c->stride_h, c->dilation_h, c->top);
    const Axis columns(c->width, size[3], f->width, c->stride_w, c->dilation_w, c->left);
    const Base base(*f, *c, rows, columns);
    Task task(*f, *c, size, base, scale, bias);
    if (run(task, {x, threshold, y}, size, {each ? each : alone, context})) return nullptr;
  } catch (const std::bad_alloc&) {
  }
  return "not enough memory";
}
