// Asymmetric numeral systems with a state of 64 bits, words of 32 and frequencies of 24: the same streams, bit for bit,
// as constriction's AnsCoder, in a fraction of the time.
#include <cstddef>
#include <memory>
#include <new>

#include "kernels.h"

namespace {

constexpr int PRECISION = 24;
constexpr int BUCKETS = 12;  // bits of a quantile that look up where the search for its symbol begins
using u32 = uint32_t;
using u64 = uint64_t;

using u128 = unsigned __int128;

// state / frequency = ((state + add) * reciprocal >> 64) >> shift, exactly for every state below frequency * 2^40
// (Granlund and Montgomery 1994, and the rounding down of Robison 2005 where rounding up is not near enough).
struct Entry {
  u64 reciprocal;
  u32 first, frequency;
  uint8_t shift, add;

  Entry() = default;
  Entry(u32 first, u32 frequency) : first(first), frequency(frequency) {
    shift = 0;
    while (u32(2) << shift < frequency) shift++;
    const u128 one = u128(1) << (64 + shift), rounded = (one + frequency - 1) / frequency;
    add = rounded >> 64 || (rounded * frequency - one) * (u128(frequency) << 40) >= one;
    reciprocal = u64(rounded - add);
  }
};

template <typename Symbol>
void encode(const Symbol* symbols, size_t count, const Entry* entries, rarefy_ans* coder) {
  u64 state = coder->state;
  u32* words = coder->words + coder->at;
  for (size_t i = count; i-- > 0;) {
    const Entry entry = entries[symbols[i]];
    if (state >> (64 - PRECISION) >= entry.frequency) {
      *words++ = u32(state);
      state >>= 32;
    }
    const u64 quotient = u64(u128(state + entry.add) * entry.reciprocal >> 64) >> entry.shift;
    state += entry.first + quotient * ((u64(1) << PRECISION) - entry.frequency);
  }
  coder->state = state;
  coder->at = words - coder->words;
}

template <typename Symbol>
void decode(Symbol* symbols, size_t count, const u32* bounds, const u32* buckets, rarefy_ans* coder) {
  u64 state = coder->state;
  int64_t at = coder->at;
  for (size_t i = 0; i < count; i++) {
    const u32 quantile = state & ((1 << PRECISION) - 1);
    u32 symbol = buckets[quantile >> (PRECISION - BUCKETS)];
    while (bounds[symbol + 1] <= quantile) symbol++;
    symbols[i] = Symbol(symbol);
    state = (state >> PRECISION) * (bounds[symbol + 1] - bounds[symbol]) + (quantile - bounds[symbol]);
    if (state >> 32 == 0 && at > 0) state = state << 32 | coder->words[--at];
  }
  coder->state = state;
  coder->at = at;
}

}  // namespace

RAREFY_API int rarefy_ans_encode(const void* symbols, int64_t bytes, int64_t count, const uint32_t* bounds,
                                 int64_t size, rarefy_ans* coder) {
  std::unique_ptr<Entry[]> entries(new (std::nothrow) Entry[size]);
  if (!entries) return 0;
  for (int64_t i = 0; i < size; i++) entries[i] = Entry(bounds[i], bounds[i + 1] - bounds[i]);
  if (bytes == 1) encode(static_cast<const uint8_t*>(symbols), count, entries.get(), coder);
  if (bytes == 2) encode(static_cast<const uint16_t*>(symbols), count, entries.get(), coder);
  if (bytes == 4) encode(static_cast<const uint32_t*>(symbols), count, entries.get(), coder);
  return 1;
}

RAREFY_API void rarefy_ans_decode(void* symbols, int64_t bytes, int64_t count, const uint32_t* bounds, int64_t size,
                                  rarefy_ans* coder) {
  u32 buckets[1 << BUCKETS];
  for (u32 bucket = 0, symbol = 0; bucket < 1 << BUCKETS; bucket++) {
    while (symbol + 1 < size && bounds[symbol + 1] <= bucket << (PRECISION - BUCKETS)) symbol++;
    buckets[bucket] = symbol;
  }
  if (bytes == 1) decode(static_cast<uint8_t*>(symbols), count, bounds, buckets, coder);
  if (bytes == 2) decode(static_cast<uint16_t*>(symbols), count, bounds, buckets, coder);
  if (bytes == 4) decode(static_cast<uint32_t*>(symbols), count, bounds, buckets, coder);
}
