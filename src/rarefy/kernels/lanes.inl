// Activations to bits, and counts to floats, in vectors: for a version that has defined TARGET, INLINE, `Lanes` (floats),
// `Words` (integers), `Some` (which lanes are meant), WIDTH (lanes), and the functions used here.

// words[b] gets bit b of every activation, at `bit`.
template <int BITS>
INLINE void add_channel(Lanes x, const Pack& p, Words bit, Words* words) {
  if (BITS == 0) {
    words[0] = with(words[0], positive(x), bit);
    return;
  }
  const Words q = levels(x, p);
#pragma GCC unroll 4
  for (int b = 0; b < BITS; b++) words[b] = with(words[b], has(q, 1u << b), bit);
}

template <int BITS>
TARGET void pack_bits(const Pack& p) {
  constexpr int PLANES = BITS ? BITS : 1, VECTORS = BITS ? 1 : 4;  // several, so that lines of a channel come in a row
  for (int64_t i = 0; i < p.pixels; i += WIDTH * VECTORS) {
    Some wanted[VECTORS];
    Words words[VECTORS][PLANES] = {}, bit = every(1);
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) wanted[v] = below(p.pixels - i - WIDTH * v);
    for (int64_t c = 0; c < p.channels; c++, bit = doubled(bit)) {
      const float* x = p.x + c * p.step + i;
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) {
        __builtin_prefetch(x + WIDTH * (VECTORS + v));
        add_channel<BITS>(load(wanted[v], x + WIDTH * v), p, bit, words[v]);
      }
    }
    for (int b = 0; b < PLANES; b++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) store(wanted[v], p.words + b * p.pixels + i + WIDTH * v, words[v][b]);
  }
}

void pack_planes(const Pack& p) {
  static constexpr void (*by_bits[])(const Pack&) = {pack_bits<0>, pack_bits<1>, pack_bits<2>, pack_bits<3>,
                                                     pack_bits<4>};
  by_bits[p.bits](p);
}

TARGET void pack_rows(const Pack& p) {
  if (p.bits) return pack_rows_plain(p);
  for (int64_t i = 0; i < p.pixels; i++)
    for (int64_t first = 0; first < p.channels; first += 32) {
      uint32_t word = 0;
      for (int64_t k = 0; k < 32 && first + k < p.channels; k += WIDTH) {
        const Some wanted = below(p.channels - first - k);
        word |= bits(wanted, positive(load(wanted, p.x + i * p.step + first + k))) << k;
      }
      p.words[i * p.row + first / 32] = word;
    }
}

template <bool MAP>
INLINE Lanes values(const Finish& f, int64_t pixel, int lane) {
  const Words count = shifted(load(f.counts + pixel * BLOCK + lane), f.shift);
  Lanes value = times(to_float(minus(load(f.base[pixel] + lane), count)), load(f.scale + lane));
  if (MAP) value = times(value, every(f.map[pixel]));
  return plus(value, load(f.bias + lane));
}

// Pixels in rows and filters in columns become the opposite.
template <bool MAP>
TARGET void finish_lanes(const Finish& f, int lane) {
  float* out = static_cast<float*>(f.out) + lane * f.step;
  const int filters = f.filters - lane;
  for (int64_t i = 0; i < f.count; i += WIDTH) {
    const int64_t pixels = f.count - i;
    Lanes rows[WIDTH];
#pragma GCC unroll 16
    for (int j = 0; j < WIDTH; j++) rows[j] = values<MAP>(f, i + (j < pixels ? j : 0), lane);
    transpose(rows);
    const Some wanted = below(pixels);
#pragma GCC unroll 16
    for (int j = 0; j < WIDTH; j++)
      if (j < filters) store(wanted, out + j * f.step + i, rows[j]);
  }
}

void finish_planes(const Finish& f) {
  for (int lane = 0; lane < f.filters; lane += WIDTH) (f.map ? finish_lanes<true> : finish_lanes<false>)(f, lane);
}

TARGET void finish_rows(const Finish& f) {  // which have no map
  for (int64_t i = 0; i < f.count; i++)
    for (int lane = 0; lane < f.filters; lane += WIDTH)
      store(below(f.filters - lane), static_cast<float*>(f.out) + i * f.step + lane, values<false>(f, i, lane));
}

TARGET void finish_words(const Finish& f) {
  for (int64_t i = 0; i < f.count; i++) {
    uint32_t word = 0;
    for (int lane = 0; lane < f.filters; lane += WIDTH) {
      const Lanes value = f.map ? values<true>(f, i, lane) : values<false>(f, i, lane);
      word |= bits(below(f.filters - lane), positive(value)) << lane;
    }
    static_cast<uint32_t*>(f.out)[i * f.step] = word;  // BLOCK filters
  }
}
