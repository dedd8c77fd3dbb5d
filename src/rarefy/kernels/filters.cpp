// Making filters: from the bits of the file to the order in which a version reads them.
#include "filters.h"

#include <string.h>
#include <sys/mman.h>

#include <new>

namespace rarefy {
namespace {

constexpr int64_t LARGEST = int64_t{1} << 24;  // weights of a filter, so that every sum fits 32 bits
constexpr int64_t PAGE = int64_t{1} << 21;     // a large one

const Version* const* versions() {
  static const Version* const all[] = {avx512(), avx2(), neon(), &portable};
  return all;
}

const Version* named(const char* name) {
  for (int i = 0; i < 4; i++)
    if (versions()[i] && !strcmp(versions()[i]->name, name)) return versions()[i];
  return nullptr;
}

// One filter's bits, in the file's order (channel, row, column), as words [row][column][words].
void to_words(const uint8_t* bits, const rarefy_filters& f, uint32_t* words) {
  const int64_t positions = f.height * f.width;
  if (positions == 1) {  // the same order, but for bits after the last
    memcpy(words, bits, static_cast<size_t>((f.channels + 7) / 8));
    if (f.channels % 32) words[f.channels / 32] &= (1u << f.channels % 32) - 1;
    return;
  }
  for (int64_t c = 0, i = 0; c < f.channels; c++)
    for (int64_t p = 0; p < positions; p++, i++)
      words[p * ((f.channels + 31) / 32) + c / 32] |= static_cast<uint32_t>(bits[i / 8] >> i % 8 & 1) << c % 32;
}

// Puts a filter's words into its lane of its panel, and sums its weights.
template <typename Unit>
void place(const uint32_t* words, int64_t filter, rarefy_filters& f) {
  Unit* to = reinterpret_cast<Unit*>(f.weights.get() + filter / LANES * f.panel()) + filter % LANES;
  for (int64_t p = 0; p < f.height * f.width; p++, words += (f.channels + 31) / 32) {
    int ones = 0;
    for (int64_t u = 0; u < f.units; u++, to += LANES) {
      *to = unit<Unit>(words, u);
      ones += __builtin_popcount(*to);
    }
    const int32_t sum = static_cast<int32_t>(2 * ones - f.channels);
    f.sums[static_cast<size_t>(p * f.padded + filter)] = sum;
    f.total[static_cast<size_t>(filter)] += sum;
  }
}

void fill(const uint8_t* bits, rarefy_filters& f) {
  std::vector<uint32_t> words(static_cast<size_t>(f.height * f.width * ((f.channels + 31) / 32)));
  for (int64_t i = 0; i < f.filters; i++) {
    words.assign(words.size(), 0);
    to_words(bits + i * ((f.size() + 7) / 8), f, words.data());
    (f.version->order == Order::BYTES ? place<uint8_t> : place<uint32_t>)(words.data(), i, f);
  }
  if (f.version->order != Order::PAIRS) return;
  for (int64_t i = 0; i < f.padded / LANES; i++)
    pair(reinterpret_cast<uint32_t*>(f.weights.get() + i * f.panel()), f.depth, LANES);
}

}  // namespace

Aligned aligned(int64_t bytes) {
  const int64_t line = bytes < 2 * PAGE ? 64 : PAGE, all = (bytes + line - 1) / line * line;
  Aligned made(static_cast<uint8_t*>(aligned_alloc(static_cast<size_t>(line), static_cast<size_t>(all))));
  if (!made) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (line == PAGE) madvise(made.get(), static_cast<size_t>(all), MADV_HUGEPAGE);  // a wish
#endif
  return made;
}

const Version* chosen() {
  const char* wanted = getenv("RAREFY_KERNELS");
  if (wanted && *wanted) return named(wanted);
  for (int i = 0;; i++)
    if (versions()[i]) return versions()[i];
}

}  // namespace rarefy

using namespace rarefy;

int rarefy_interface(void) { return RAREFY_INTERFACE; }

int rarefy_has(const char* version) { return named(version) != nullptr; }

const char* rarefy_version(void) { return chosen() ? chosen()->name : nullptr; }

const char* rarefy_filters_new(const uint8_t* bits, int64_t filters, int64_t channels, int64_t height, int64_t width,
                               rarefy_filters** made) {
  for (const int64_t size : {filters, channels, height, width})
    if (size < 1 || size > LARGEST) return "every size of the filters must be from 1 to 2^24";
  int64_t all;
  if (height * width > LARGEST || channels * height * width > LARGEST ||
      __builtin_mul_overflow(filters + LANES, (channels + 64) * height * width, &all) || all > int64_t{1} << 38)
    return "the filters are too large: at most 2^24 weights each and 2^38 in all";
  const Version* version = chosen();
  if (!version) return "RAREFY_KERNELS names a version that this CPU or this library has not";
  try {
    std::unique_ptr<rarefy_filters> f(
        new rarefy_filters{version, filters, channels, height, width, 0, 0, 0, {}, {}, {}});
    f->padded = (filters + LANES - 1) / LANES * LANES;
    f->units = version->order == Order::BYTES ? (channels + 7) / 8 : (channels + 31) / 32;
    f->depth = f->units * height * width;
    if (version->order == Order::PAIRS) f->depth += f->depth % 2;
    const int64_t bytes = f->padded / LANES * f->panel();
    f->weights = aligned(bytes);
    memset(f->weights.get(), 0, static_cast<size_t>(bytes));
    f->sums.resize(static_cast<size_t>(f->padded * height * width));
    f->total.resize(static_cast<size_t>(f->padded));
    fill(bits, *f);
    *made = f.release();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "not enough memory for the filters";
  }
}

void rarefy_filters_free(rarefy_filters* filters) { delete filters; }
