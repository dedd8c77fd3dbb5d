// Making filters: from the bits of the file to the order in which a version reads them.
#include "filters.h"

#include <string.h>

#include <new>

namespace rarefy {
namespace {

constexpr int64_t LARGEST = int64_t{1} << 24;  // weights of a filter, so that every sum fits 32 bits

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
      words[p * f.words + c / 32] |= static_cast<uint32_t>(bits[i / 8] >> i % 8 & 1) << c % 32;
}

// Puts a filter's words into its lane of its block, and sums its weights.
void place(const uint32_t* words, int64_t filter, rarefy_filters& f) {
  const int64_t positions = f.height * f.width, lane = filter % BLOCK;
  uint32_t* block = f.weights.get() + filter / BLOCK * positions * f.words * BLOCK;
  for (int64_t p = 0; p < positions; p++) {
    int ones = 0;
    for (int64_t w = 0; w < f.words; w++) {
      const uint32_t word = words[p * f.words + w];
      uint32_t* to = block + (p * f.words + w) * BLOCK;
      ones += __builtin_popcount(word);
      switch (f.version->order) {
        case Order::WORDS: to[lane] = word; break;
        case Order::PAIRS: to[lane] = w % 2 ? word ^ words[p * f.words + w - 1] : word; break;
        case Order::BYTES:
          for (int i = 0; i < 4; i++) reinterpret_cast<uint8_t*>(to)[i * BLOCK + lane] = static_cast<uint8_t>(word >> 8 * i);
      }
    }
    const int32_t sum = static_cast<int32_t>(2 * ones - f.channels);
    f.sums[static_cast<size_t>(p * f.padded + filter)] = sum;
    f.total[static_cast<size_t>(filter)] += sum;
  }
}

}  // namespace

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
      __builtin_mul_overflow(filters + BLOCK, (channels + 64) * height * width, &all) || all > int64_t{1} << 38)
    return "the filters are too large: at most 2^24 weights each and 2^38 in all";
  const Version* version = chosen();
  if (!version) return "RAREFY_KERNELS names a version that this CPU or this library has not";
  try {
    std::unique_ptr<rarefy_filters> f(
        new rarefy_filters{version, filters, channels, height, width, 0, 0, {}, {}, {}});
    f->words = version->order == Order::PAIRS ? (channels + 63) / 64 * 2 : (channels + 31) / 32;
    f->padded = (filters + BLOCK - 1) / BLOCK * BLOCK;
    const size_t bytes = static_cast<size_t>(f->padded * height * width * f->words) * sizeof(uint32_t);
    f->weights.reset(static_cast<uint32_t*>(aligned_alloc(64, bytes)));  // a multiple: blocks of filters are
    if (!f->weights) throw std::bad_alloc();
    memset(f->weights.get(), 0, bytes);
    f->sums.resize(static_cast<size_t>(f->padded * height * width));
    f->total.resize(static_cast<size_t>(f->padded));
    std::vector<uint32_t> words(static_cast<size_t>(height * width * f->words));
    for (int64_t i = 0; i < filters; i++) {
      words.assign(words.size(), 0);
      to_words(bits + i * ((f->size() + 7) / 8), *f, words.data());
      place(words.data(), i, *f);
    }
    *made = f.release();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "not enough memory for the filters";
  }
}

void rarefy_filters_free(rarefy_filters* filters) { delete filters; }
