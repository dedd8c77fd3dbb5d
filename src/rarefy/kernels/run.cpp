// A convolution: activations to bits, counts, floats. The work is cut into pieces that any threads may take.
#include <algorithm>
#include <new>

#include "activations.h"

namespace rarefy {
namespace {

constexpr int64_t PIECE = 1 << 24;  // weights times pixels that are worth another thread's attention

// Everything about one call; the image is the one being worked on.
struct Call {
  const rarefy_filters& f;
  rarefy_convolution c;
  int64_t out_height, out_width;
  char* y;
  Image image;
  std::vector<float> scale, bias, map;
  std::vector<int64_t> segments;
  int64_t segment_words;
  Axis rows, columns;
  Base base;
  int64_t number = 0, pieces = 0;

  Call(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4]);
};

Call::Call(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4])
    : f(filters),
      c(convolution),
      out_height(size[2]),
      out_width(size[3]),
      image(f, c),
      rows(c.height, out_height, f.height, c.stride_h, c.dilation_h, c.top),
      columns(c.width, out_width, f.width, c.stride_w, c.dilation_w, c.left),
      base(f, c, rows, columns) {
  const bool whole = c.dilation_w == 1;  // a row of the filter is one run of words
  for (int64_t y = 0; y < f.height; y++)
    for (int64_t x = 0; x < (whole ? 1 : f.width); x++)
      segments.push_back(y * c.dilation_h * image.row + x * c.dilation_w * f.words);
  segment_words = whole ? f.width * f.words : f.words;
}

// The pixels of a chunk, and what their counts are taken from; of the first block of filters.
struct Chunk {
  const uint32_t* pixels[CHUNK];
  const int32_t* base[CHUNK];

  Chunk(const Call& call, int64_t begin, int64_t count);
};

Chunk::Chunk(const Call& call, int64_t begin, int64_t count) {
  const rarefy_convolution& c = call.c;
  const int64_t padded = call.f.padded, row_of_kinds = static_cast<int64_t>(call.columns.first.size()) * padded;
  int64_t y = begin / call.out_width, x = begin % call.out_width;
  for (int64_t i = 0; i < count; y++, x = 0) {
    const uint32_t* row = call.image.words.data() + y * c.stride_h * call.image.row;
    const int32_t* kinds = call.base.values.data() + call.rows.kind[static_cast<size_t>(y)] * row_of_kinds;
    for (; i < count && x < call.out_width; i++, x++) {
      pixels[i] = row + x * c.stride_w * call.f.words;
      base[i] = kinds + call.columns.kind[static_cast<size_t>(x)] * padded;
    }
  }
}

// One block of filters at one chunk of pixels.
void work_on(const Call& call, int64_t block, int64_t begin, int64_t count) {
  const rarefy_filters& f = call.f;
  const rarefy_convolution& c = call.c;
  const int64_t first = block * BLOCK, all = call.out_height * call.out_width;
  const int filters = static_cast<int>(std::min<int64_t>(BLOCK, f.filters - first));
  alignas(64) int32_t counts[CHUNK * BLOCK];
  Chunk at(call, begin, count);
  for (int64_t i = 0; i < count; i++) at.base[i] += first;
  Finish finish{counts, count, filters, at.base, call.base.shift, call.scale.data() + first, call.bias.data() + first,
                c.map ? call.map.data() + begin : nullptr, nullptr, all};
  float* out = reinterpret_cast<float*>(call.y) + (call.number * f.filters + first) * all + begin;
  if (!c.rows && !c.packed_out)  // brought near while the bits are counted
    for (int filter = 0; filter < filters; filter++)
      for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(out + filter * all + i, 1);
  f.version->count({f.weights.get() + first * f.height * f.width * f.words, at.pixels, count, filters,
                    call.segments.data(), static_cast<int64_t>(call.segments.size()), call.segment_words,
                    static_cast<int>(call.image.planes), call.image.plane, counts});
  if (c.packed_out) {
    finish.step = (f.filters + 31) / 32;
    finish.out = reinterpret_cast<uint32_t*>(call.y) + (call.number * all + begin) * finish.step + first / 32;
    f.version->finish_words(finish);
  } else if (c.rows) {
    finish.step = f.filters;
    finish.out = reinterpret_cast<float*>(call.y) + begin * f.filters + first;
    f.version->finish_rows(finish);
  } else {
    finish.out = out;
    f.version->finish_planes(finish);
  }
}

void work(void* argument, size_t piece) {
  const Call& call = *static_cast<const Call*>(argument);
  const int64_t all = call.out_height * call.out_width, blocks = call.f.padded / BLOCK;
  const int64_t chunks = (all + CHUNK - 1) / CHUNK, tasks = chunks * blocks, i = static_cast<int64_t>(piece);
  for (int64_t t = tasks * i / call.pieces; t < tasks * (i + 1) / call.pieces; t++) {
    const int64_t begin = t % chunks * CHUNK;
    work_on(call, t / chunks, begin, std::min<int64_t>(CHUNK, all - begin));
  }
}

void alone(void*, void (*work)(void*, size_t), size_t count, void* argument) {
  for (size_t i = 0; i < count; i++) work(argument, i);
}

void run(Call& call, const char* x, const float* scale, const float* bias, rarefy_each each, void* context) {
  const rarefy_filters& f = call.f;
  const int64_t all = call.out_height * call.out_width, blocks = f.padded / BLOCK;
  call.scale.assign(static_cast<size_t>(f.padded), 0.0f);
  call.bias = call.scale;
  std::copy(scale, scale + f.filters, call.scale.begin());
  std::copy(bias, bias + f.filters, call.bias.begin());
  const int64_t tasks = (all + CHUNK - 1) / CHUNK * blocks;
  const int64_t worth = f.size() * f.padded / PIECE * all + f.size() * f.padded % PIECE * all / PIECE;
  call.pieces = std::max<int64_t>(1, std::min(tasks, worth));
  const int64_t deep = call.c.packed_in ? (call.c.channels + 31) / 32 : call.c.channels;
  const int64_t size = call.c.height * call.c.width * deep * static_cast<int64_t>(sizeof(float));  // of an image
  for (call.number = 0; call.number < (call.c.rows ? 1 : call.c.batch); call.number++) {
    const char* from = x + call.number * size;
    call.image.pack(from, each, context);
    if (call.c.map) call.map = magnitudes(f, call.c, call.rows, call.columns, reinterpret_cast<const float*>(from));
    each(context, work, static_cast<size_t>(call.pieces), &call);
  }
}

}  // namespace
}  // namespace rarefy

using namespace rarefy;

const char* rarefy_run(const rarefy_filters* f, const rarefy_convolution* c, const void* x, const float* scale,
                       const float* bias, void* y, rarefy_each each, void* context) {
  int64_t size[4];
  if (const char* reason = rarefy_size(f, c, size)) return reason;
  if (!c->batch) return nullptr;
  try {
    rarefy_convolution use = *c;
    if (use.rows) use.width = size[3] = use.batch;  // the batch as one row of pixels
    Call call(*f, use, size);
    call.y = static_cast<char*>(y);
    run(call, static_cast<const char*>(x), scale, bias, each ? each : alone, context);
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "not enough memory";
  }
}
