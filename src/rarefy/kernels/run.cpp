// A convolution: activations to bits, counts, floats. The work is cut into pieces that any threads may take.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <new>

#include "geometry.h"

namespace rarefy {
namespace {

constexpr int64_t FAR = 1 << 16;    // floats of an output that the nearest caches do not keep
constexpr int64_t PIECE = 1 << 24;  // weights times pixels that are worth another thread's attention

// Everything about one call; `image` is the one being worked on.
struct Call {
  const rarefy_filters& f;
  rarefy_convolution c;
  int64_t out_height, out_width;
  const char* x;
  char* y;
  int64_t planes, row, plane;  // words in a row of the padded image, and in all of it
  std::vector<uint32_t> image, planar;
  const uint32_t* words;  // the image, or the caller's own words
  std::vector<float> scale, bias, map;
  std::vector<int64_t> segments;
  int64_t segment_words;
  Axis rows, columns;
  Base base;
  int64_t number = 0, pieces = 0, chunk = 0;

  Call(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4]);
};

Call::Call(const rarefy_filters& filters, const rarefy_convolution& convolution, const int64_t size[4])
    : f(filters),
      c(convolution),
      out_height(size[2]),
      out_width(size[3]),
      planes(c.bits ? c.bits : 1),
      row((c.left + c.width + c.right) * f.words),
      plane((c.top + c.height + c.bottom) * row),
      rows(c.height, out_height, f.height, c.stride_h, c.dilation_h, c.top),
      columns(c.width, out_width, f.width, c.stride_w, c.dilation_w, c.left),
      base(f, c, rows, columns) {
  const bool whole = c.dilation_w == 1;  // a row of the filter is one run of words
  for (int64_t y = 0; y < f.height; y++)
    for (int64_t x = 0; x < (whole ? 1 : f.width); x++)
      segments.push_back(y * c.dilation_h * row + x * c.dilation_w * f.words);
  segment_words = whole ? f.width * f.words : f.words;
}

// Padding is written anew for every image only where it is not zero bits.
void clear(Call& call) {
  if (call.c.pad_value != 1) {
    std::fill(call.image.begin(), call.image.end(), 0);
    return;
  }
  const int64_t tail = call.f.channels % 32;
  for (size_t i = 0; i < call.image.size(); i++)
    call.image[i] = tail && (static_cast<int64_t>(i) + 1) % call.f.words == 0 ? (1u << tail) - 1 : ~0u;
}

void pack_words(Call& call) {
  const rarefy_convolution& c = call.c;
  const uint32_t* x = reinterpret_cast<const uint32_t*>(call.x) + call.number * c.height * c.width * call.f.words;
  const int64_t words = c.width * call.f.words;
  const bool plain = call.plane == c.height * words && call.f.channels % 32 == 0;
  call.words = plain ? x : call.image.data();
  if (plain) return;
  const int64_t tail = call.f.channels % 32;
  for (int64_t y = 0; y < c.height; y++) {
    uint32_t* to = call.image.data() + (c.top + y) * call.row + c.left * call.f.words;
    memcpy(to, x + y * words, static_cast<size_t>(words) * sizeof *to);
    for (int64_t i = call.f.words - 1; tail && i < words; i += call.f.words) to[i] &= (1u << tail) - 1;
  }
}

// 32 channels: to planar words first, then each into its place beside those of other channels.
void pack_group(void* argument, size_t group) {
  Call& call = *static_cast<Call*>(argument);
  const rarefy_convolution& c = call.c;
  const int64_t pixels = c.height * c.width, g = static_cast<int64_t>(group);
  const float* x = reinterpret_cast<const float*>(call.x) + (call.number * c.channels + g * 32) * pixels;
  uint32_t* from = call.planar.data() + g * call.planes * pixels;
  call.f.version->pack_planes(
      {x, pixels, std::min<int64_t>(32, c.channels - g * 32), pixels, static_cast<int>(c.bits), c.steps, from});
  for (int64_t b = 0; b < call.planes; b++)
    for (int64_t y = 0; y < c.height; y++) {
      uint32_t* to = call.image.data() + b * call.plane + (c.top + y) * call.row + c.left * call.f.words + g;
      for (int64_t i = 0; i < c.width; i++, to += call.f.words) *to = *from++;
    }
}

// Mean magnitude of what lies under the filter, zeros outside the image counted.
void measure(Call& call) {
  const rarefy_convolution& c = call.c;
  const rarefy_filters& f = call.f;
  const int64_t pixels = c.height * c.width;
  const float* x = reinterpret_cast<const float*>(call.x) + call.number * c.channels * pixels;
  std::vector<float> sums(static_cast<size_t>(pixels));
  for (int64_t k = 0; k < c.channels; k++)
    for (int64_t i = 0; i < pixels; i++) sums[static_cast<size_t>(i)] += fabsf(x[k * pixels + i]);
  const float share = 1.0f / static_cast<float>(f.size());
  for (int64_t y = 0; y < call.out_height; y++)
    for (int64_t z = 0; z < call.out_width; z++) {
      const size_t r = static_cast<size_t>(call.rows.kind[static_cast<size_t>(y)]);
      const size_t k = static_cast<size_t>(call.columns.kind[static_cast<size_t>(z)]);
      float sum = 0.0f;
      for (int64_t i = call.rows.first[r]; i < call.rows.last[r]; i++)
        for (int64_t j = call.columns.first[k]; j < call.columns.last[k]; j++) {
          const int64_t up = y * c.stride_h - c.top + i * c.dilation_h, across = z * c.stride_w - c.left + j * c.dilation_w;
          sum += sums[static_cast<size_t>(up * c.width + across)];
        }
      call.map[static_cast<size_t>(y * call.out_width + z)] = sum * share;
    }
}

// One block of filters at one chunk of pixels.
void work_on(const Call& call, int64_t block, int64_t begin, int64_t count) {
  const rarefy_filters& f = call.f;
  const rarefy_convolution& c = call.c;
  const uint32_t* pixels[CHUNK];
  const int32_t* base[CHUNK];
  alignas(64) int32_t counts[CHUNK * BLOCK];
  const int64_t kinds = static_cast<int64_t>(call.columns.first.size());
  for (int64_t i = 0, y = begin / call.out_width, x = begin % call.out_width; i < count; i++) {
    pixels[i] = call.words + y * c.stride_h * call.row + x * c.stride_w * f.words;
    const int64_t kind = call.rows.kind[static_cast<size_t>(y)] * kinds + call.columns.kind[static_cast<size_t>(x)];
    base[i] = call.base.values.data() + kind * f.padded + block * BLOCK;
    if (++x == call.out_width) x = 0, y++;
  }
  const int64_t weights = f.height * f.width * f.words * BLOCK, all = call.out_height * call.out_width;
  const int filters = static_cast<int>(std::min<int64_t>(BLOCK, f.filters - block * BLOCK));
  const int64_t words = (f.filters + 31) / 32;
  if (!c.rows && !c.packed_out && f.filters * all >= FAR) {  // brought near while the bits are counted
    const float* out = reinterpret_cast<float*>(call.y) + (call.number * f.filters + block * BLOCK) * all + begin;
    for (int filter = 0; filter < filters; filter++)
      for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(out + filter * all + i, 1);
  }
  f.version->count({f.weights.data() + block * weights, pixels, count, filters, call.segments.data(),
                    static_cast<int64_t>(call.segments.size()), call.segment_words, static_cast<int>(call.planes),
                    call.plane, counts});
  Finish finish{counts, count, filters, base, call.base.shift, call.scale.data() + block * BLOCK,
                call.bias.data() + block * BLOCK, c.map ? call.map.data() + begin : nullptr, nullptr, all};
  if (c.packed_out) {
    finish.out = reinterpret_cast<uint32_t*>(call.y) + (call.number * all + begin) * words + block * (BLOCK / 32);
    finish.step = words;
    f.version->finish_words(finish);
  } else if (c.rows) {
    finish.out = reinterpret_cast<float*>(call.y) + begin * f.filters + block * BLOCK;
    finish.step = f.filters;
    f.version->finish_rows(finish);
  } else {
    finish.out = reinterpret_cast<float*>(call.y) + (call.number * f.filters + block * BLOCK) * all + begin;
    f.version->finish_planes(finish);
  }
}

void work(void* argument, size_t piece) {
  const Call& call = *static_cast<const Call*>(argument);
  const int64_t all = call.out_height * call.out_width, blocks = call.f.padded / BLOCK;
  const int64_t tasks = (all + call.chunk - 1) / call.chunk * blocks, i = static_cast<int64_t>(piece);
  for (int64_t t = tasks * i / call.pieces; t < tasks * (i + 1) / call.pieces; t++) {
    const int64_t begin = t / blocks * call.chunk;
    work_on(call, t % blocks, begin, std::min(call.chunk, all - begin));
  }
}

void alone(void*, void (*work)(void*, size_t), size_t count, void* argument) {
  for (size_t i = 0; i < count; i++) work(argument, i);
}

void pack(Call& call, rarefy_each each, void* context) {
  const rarefy_convolution& c = call.c;
  call.words = call.image.data();
  if (c.packed_in)
    pack_words(call);
  else if (c.rows)
    call.f.version->pack_rows({reinterpret_cast<const float*>(call.x), c.channels, c.channels, c.width,
                               static_cast<int>(c.bits), c.steps, call.image.data()});
  else if (c.channels * c.height * c.width >= PIECE / 64)
    each(context, pack_group, static_cast<size_t>(call.f.words), &call);
  else
    alone(nullptr, pack_group, static_cast<size_t>(call.f.words), &call);
}

void run(Call& call, const float* scale, const float* bias, rarefy_each each, void* context) {
  const rarefy_filters& f = call.f;
  const int64_t all = call.out_height * call.out_width, tiles = (all + TILE - 1) / TILE;
  const int64_t chunks = (tiles * TILE + CHUNK - 1) / CHUNK, blocks = f.padded / BLOCK;
  call.scale.assign(static_cast<size_t>(f.padded), 0.0f);
  call.bias = call.scale;
  std::copy(scale, scale + f.filters, call.scale.begin());
  std::copy(bias, bias + f.filters, call.bias.begin());
  call.image.resize(static_cast<size_t>(call.planes * call.plane));
  if (!call.c.rows && !call.c.packed_in)
    call.planar.resize(static_cast<size_t>(call.planes * call.c.height * call.c.width * f.words));
  call.map.resize(static_cast<size_t>(call.c.map ? all : 0));
  call.chunk = (tiles + chunks - 1) / chunks * TILE;
  const int64_t tasks = (all + call.chunk - 1) / call.chunk * blocks;
  const int64_t worth = f.size() * f.padded / PIECE * all + f.size() * f.padded % PIECE * all / PIECE;
  call.pieces = std::max<int64_t>(1, std::min(tasks, worth));
  clear(call);
  for (call.number = 0; call.number < (call.c.rows ? 1 : call.c.batch); call.number++) {
    pack(call, each, context);
    if (call.c.map) measure(call);
    each(context, work, static_cast<size_t>(call.pieces), &call);
  }
}

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
  if (__builtin_mul_overflow((c->height + c->top + c->bottom) * (c->width + c->left + c->right), c->channels + 32, &in) ||
      __builtin_mul_overflow(size[2] * size[3], f->padded, &out) || in > int64_t{1} << 36 || out > int64_t{1} << 36)
    return "an image of more than 2^36 activations";
  return nullptr;
}

const char* rarefy_run(const rarefy_filters* f, const rarefy_convolution* c, const void* x, const float* scale,
                       const float* bias, void* y, rarefy_each each, void* context) {
  int64_t size[4];
  if (const char* reason = rarefy_size(f, c, size)) return reason;
  if (!c->batch) return nullptr;
  try {
    rarefy_convolution use = *c;
    if (use.rows) use.width = size[3] = use.batch;  // the batch as one row of pixels
    Call call(*f, use, size);
    call.x = static_cast<const char*>(x);
    call.y = static_cast<char*>(y);
    run(call, scale, bias, each ? each : alone, context);
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "not enough memory";
  }
}
