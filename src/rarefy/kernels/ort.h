// What is needed of ONNX Runtime's stable C interface, without its header: functions are known by their place in a table,
// which never changes. Internal.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace ort {

constexpr uint32_t INTERFACE = 17;  // the first with the parallel-for of a kernel's context
constexpr int FLOAT = 1, UINT8 = 2, FAIL = 1, INVALID_ARGUMENT = 2;

struct Status;
struct Info;
struct Context;
struct Value;
struct Shape;
struct Domain;
struct Options;

struct Api {
  void* functions[275];

  template <typename Function>
  Function at(int place) const {
    return reinterpret_cast<Function>(functions[place]);
  }
  Status* error(int code, const char* message) const {
    return at<Status* (*)(int, const char*)>(0)(code, message);
  }
  Status* data(Value* value, void** out) const { return at<Status* (*)(Value*, void**)>(51)(value, out); }
  Status* type(const Shape* shape, int* out) const { return at<Status* (*)(const Shape*, int*)>(60)(shape, out); }
  Status* rank(const Shape* shape, size_t* out) const { return at<Status* (*)(const Shape*, size_t*)>(61)(shape, out); }
  Status* sizes(const Shape* shape, int64_t* out, size_t count) const {
    return at<Status* (*)(const Shape*, int64_t*, size_t)>(62)(shape, out, count);
  }
  Status* shape(const Value* value, Shape** out) const { return at<Status* (*)(const Value*, Shape**)>(65)(value, out); }
  Status* real(const Info* info, const char* name, float* out) const {
    return at<Status* (*)(const Info*, const char*, float*)>(85)(info, name, out);
  }
  Status* integer(const Info* info, const char* name, int64_t* out) const {
    return at<Status* (*)(const Info*, const char*, int64_t*)>(86)(info, name, out);
  }
  Status* input(const Context* context, size_t index, const Value** out) const {
    return at<Status* (*)(const Context*, size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(Context* context, size_t index, const int64_t* sizes, size_t rank, Value** out) const {
    return at<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, sizes, rank, out);
  }
  Status* integers(const Info* info, const char* name, int64_t* out, size_t* count) const {
    return at<Status* (*)(const Info*, const char*, int64_t*, size_t*)>(163)(info, name, out, count);
  }
  Status* constant(const Info* info, size_t index, int* is, const Value** out) const {
    return at<Status* (*)(const Info*, size_t, int*, const Value**)>(249)(info, index, is, out);
  }
  Status* each(const Context* context, void (*work)(void*, size_t), size_t count, void* argument) const {
    using Function = Status* (*)(const Context*, void (*)(void*, size_t), size_t, size_t, void*);
    return at<Function>(274)(context, work, count, 0, argument);
  }
  void release_status(Status* status) const { at<void (*)(Status*)>(93)(status); }
  void release_shape(Shape* shape) const { at<void (*)(Shape*)>(99)(shape); }
};

struct ApiBase {
  const Api* (*get)(uint32_t version);
  const char* (*version)();
};

// The engine's description of an operator; places after the last are for newer interfaces than the one asked for.
struct Operator {
  uint32_t version = INTERFACE;
  void* (*create)(const Operator*, const Api*, const Info*) = nullptr;
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*input_count)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*output_count)(const Operator*);
  void (*compute)(void*, Context*) = nullptr;
  void (*destroy)(void*);
  int (*input_kind)(const Operator*, size_t);
  int (*output_kind)(const Operator*, size_t);
  int (*memory)(const Operator*, size_t);
  int (*variadic[4])(const Operator*);
  Status* (*create_or_fail)(const Operator*, const Api*, const Info*, void**);
  Status* (*compute_or_fail)(void*, Context*);
  void* later[8] = {};
};

}  // namespace ort
