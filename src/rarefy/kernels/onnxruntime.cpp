// The kernels as custom operators of ONNX Runtime (1.17 or newer).
#include <stdlib.h>
#include <string.h>

#include <iterator>
#include <memory>
#include <vector>

#include "kernels.h"
#include "ort.h"

namespace {

using namespace ort;

// One of our operators: `levels` are integer activations, `map` is the input's scale, `threshold` one more input.
struct Kind {
  const char* name;
  bool linear, levels, map, threshold;
};

constexpr Kind KINDS[] = {
    {"BinaryConv", false, false, false, false},        {"BinaryConvMapped", false, false, true, false},
    {"BinaryConvThreshold", false, false, false, true}, {"LowBitConv", false, true, false, false},
    {"BinaryLinear", true, false, false, false},       {"BinaryLinearThreshold", true, false, false, true},
    {"LowBitLinear", true, true, false, false},
};

struct Described : Operator {
  const Kind* kind;

  explicit Described(const Kind& of);
};

const Kind* kind_of(const Operator* op) { return static_cast<const Described*>(op)->kind; }

struct Kernel {
  const Api* api;
  const Kind* kind;
  rarefy_filters* filters = nullptr;
  rarefy_convolution convolution = {};

  ~Kernel() { rarefy_filters_free(filters); }
};

// Hands an error of the engine on.
#define TRY(call) \
  if (Status* status = (call)) return status

struct Sizes {
  int64_t of[5] = {};
  size_t rank = 0;
};

Status* sizes(const Api* api, const Value* value, int type, size_t rank, const char* wrong, Sizes* out) {
  Shape* shape;
  int found = 0;
  TRY(api->shape(value, &shape));
  const auto release = [api](Shape* made) { api->release_shape(made); };
  const std::unique_ptr<Shape, decltype(release)> owner(shape, release);
  TRY(api->type(shape, &found));
  TRY(api->rank(shape, &out->rank));
  if (found != type || out->rank != rank) return api->error(INVALID_ARGUMENT, wrong);
  return api->sizes(shape, out->of, rank);
}

Status* attribute(const Api* api, const Info* info, const char* name, size_t count, int64_t* out) {
  size_t found = count;
  TRY(api->integers(info, name, out, &found));
  return found == count ? nullptr : api->error(INVALID_ARGUMENT, "an attribute has too few numbers");
}

Status* geometry(const Api* api, const Info* info, Kernel* kernel) {
  rarefy_convolution& c = kernel->convolution;
  c.stride_h = c.stride_w = c.dilation_h = c.dilation_w = 1;
  c.rows = kernel->kind->linear;
  c.map = kernel->kind->map;
  if (kernel->kind->levels) {
    TRY(api->integer(info, "bits", &c.bits));
    TRY(api->real(info, "steps", &c.steps));
    if (c.bits < 1) return api->error(INVALID_ARGUMENT, "bits must be 1 to 4");
  }
  if (kernel->kind->linear) return nullptr;
  int64_t pads[8], strides[2], dilations[2];
  float value = 0;
  TRY(attribute(api, info, "strides", 2, strides));
  TRY(attribute(api, info, "dilations", 2, dilations));
  TRY(attribute(api, info, "padding", 8, pads));
  if (!kernel->kind->levels) TRY(api->real(info, "pad_value", &value));
  if (pads[0] || pads[1] || pads[4] || pads[5] || (value != 0 && value != 1 && value != -1))
    return api->error(INVALID_ARGUMENT, "padding must be of height and width, with -1, 0 or 1");
  c.stride_h = strides[0], c.stride_w = strides[1], c.dilation_h = dilations[0], c.dilation_w = dilations[1];
  c.top = pads[2], c.left = pads[3], c.bottom = pads[6], c.right = pads[7];
  c.pad_value = static_cast<int64_t>(value);
  return nullptr;
}

Status* make_kernel(const Operator* op, const Api* api, const Info* info, void** out) {
  std::unique_ptr<Kernel> kernel(new Kernel{api, kind_of(op)});
  TRY(geometry(api, info, kernel.get()));
  int64_t shape[4] = {0, 0, 1, 1};
  TRY(attribute(api, info, "shape", kernel->kind->linear ? 2 : 4, shape));
  int constant = 0;
  const Value* bits = nullptr;
  TRY(api->constant(info, 1, &constant, &bits));
  if (!constant) return api->error(INVALID_ARGUMENT, "the weights must be an initialiser");
  Sizes have;
  TRY(sizes(api, bits, UINT8, 2, "the weights must be uint8 of two dimensions", &have));
  int64_t size;
  if (__builtin_mul_overflow(shape[2], shape[3], &size) || __builtin_mul_overflow(size, shape[1], &size) || size < 1 ||
      have.of[0] != shape[0] || have.of[1] != (size - 1) / 8 + 1)
    return api->error(INVALID_ARGUMENT, "the weights do not have the size that the attribute shape gives");
  void* data;
  TRY(api->data(const_cast<Value*>(bits), &data));
  const char* wrong = rarefy_filters_new(static_cast<const uint8_t*>(data), shape[0], shape[1], shape[2], shape[3],
                                         &kernel->filters);
  if (wrong) return api->error(FAIL, wrong);
  kernel->convolution.channels = shape[1];
  *out = kernel.release();
  return nullptr;
}

struct Pool {
  const Api* api;
  const Context* context;
};

void each(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
  const Pool* pool = static_cast<const Pool*>(context);
  Status* failed = count > 1 ? pool->api->each(pool->context, work, count, argument) : nullptr;
  if (failed) pool->api->release_status(failed);
  if (failed || count == 1)  // the pool refused: nothing was begun
    for (size_t i = 0; i < count; i++) work(argument, i);
}

// Of `size` numbers.
Status* vector(const Api* api, const Value* value, int64_t size, const char* wrong) {
  Sizes have;
  TRY(sizes(api, value, FLOAT, 1, wrong, &have));
  return have.of[0] == size ? nullptr : api->error(INVALID_ARGUMENT, wrong);
}

Status* run_kernel(void* made, Context* context) {
  const Kernel* kernel = static_cast<const Kernel*>(made);
  const Api* api = kernel->api;
  rarefy_convolution c = kernel->convolution;
  const Value* inputs[5];
  void* data[5] = {};
  for (size_t i = 0; i < (kernel->kind->threshold ? 5 : 4); i++) {
    TRY(api->input(context, i, &inputs[i]));
    TRY(api->data(const_cast<Value*>(inputs[i]), &data[i]));
  }
  Sizes x;
  TRY(sizes(api, inputs[0], FLOAT, c.rows ? 2 : 4, "x must be float32 [N, C, H, W], or [N, C] for a product", &x));
  c.batch = x.of[0], c.height = c.rows ? 1 : x.of[2], c.width = c.rows ? 1 : x.of[3];
  if (x.of[1] != c.channels) return api->error(INVALID_ARGUMENT, "the channels of x and of the weights differ");
  int64_t size[4];
  if (const char* wrong = rarefy_size(kernel->filters, &c, size)) return api->error(INVALID_ARGUMENT, wrong);
  for (size_t i = 2; i < 4; i++)
    TRY(vector(api, inputs[i], size[1], "scale and bias must be float32 with one value per filter"));
  if (data[4]) TRY(vector(api, inputs[4], c.channels, "the threshold must be float32 with one value per channel"));
  Value* output;
  void* y;
  TRY(api->output(context, 0, size, c.rows ? 2 : 4, &output));
  TRY(api->data(output, &y));
  Pool pool{api, context};
  const auto floats = [&data](size_t i) { return static_cast<const float*>(data[i]); };
  const char* wrong = rarefy_run(kernel->filters, &c, data[0], floats(4), floats(2), floats(3), y, each, &pool);
  return wrong ? api->error(FAIL, wrong) : nullptr;
}

Described::Described(const Kind& of) : kind(&of) {
  name = [](const Operator* op) { return kind_of(op)->name; };
  provider = [](const Operator*) -> const char* { return nullptr; };  // the processor
  input_type = [](const Operator*, size_t index) { return index == 1 ? UINT8 : FLOAT; };
  input_count = [](const Operator* op) -> size_t { return kind_of(op)->threshold ? 5 : 4; };
  output_type = [](const Operator*, size_t) { return FLOAT; };
  output_count = [](const Operator*) -> size_t { return 1; };
  destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  input_kind = output_kind = [](const Operator*, size_t) { return 0; };  // required
  memory = [](const Operator*, size_t) { return 0; };
  for (auto& entry : variadic) entry = [](const Operator*) { return 1; };
  create_or_fail = make_kernel;
  compute_or_fail = run_kernel;
}

}  // namespace

// Called by ONNX Runtime's register_custom_ops_library.
RAREFY_API Status* RegisterCustomOps(Options* options, const ApiBase* base) {
  const Api* api = base->get(INTERFACE);
  if (!api) {  // too old; its first interface makes the error
    const Api* first = base->get(1);
    return first ? first->error(FAIL, "the kernels of rarefy need ONNX Runtime 1.17 or newer") : nullptr;
  }
  static const std::vector<Described> operators(std::begin(KINDS), std::end(KINDS));
  struct Made {
    const Api* api = nullptr;
    Domain* domain = nullptr;
    Status* failed = nullptr;
  };
  static const Made made = [api] {  // one domain for all sessions: the engine only points to it
    Made m{api};
    m.failed = api->at<Status* (*)(const char*, Domain**)>(26)("rarefy", &m.domain);
    for (const Described& op : operators)
      if (!m.failed) m.failed = api->at<Status* (*)(Domain*, const Operator*)>(27)(m.domain, &op);
    return m;
  }();
  if (made.failed) return api->error(FAIL, "the operators of rarefy could not be described to ONNX Runtime");
  return api->at<Status* (*)(Options*, Domain*)>(28)(options, made.domain);
}
