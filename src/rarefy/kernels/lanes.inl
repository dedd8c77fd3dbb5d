// Activations to bits, and counts to floats, in vectors: for a version that has defined TARGET, INLINE, `Lanes` (floats),
// `Words` (integers), `Some` (which lanes are meant), WIDTH (lanes), and the functions used here.

// words[b] gets bit b of every activation, at `bit`.
template <int BITS>
INLINE void add_channel(Lanes x, Lanes threshold, const Pack& p, Words bit, Words* words) {
  if (BITS == 0) {
    words[0] = with(words[0], reaches(x, threshold), bit);
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
      const Lanes threshold = every(p.threshold[c]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) {
        __builtin_prefetch(x + WIDTH * (VECTORS + v));
        add_channel<BITS>(load(wanted[v], x + WIDTH * v), threshold, p, bit, words[v]);
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

template <int BITS>
TARGET void pack_row_bits(const Pack& p) {
  constexpr int PLANES = BITS ? BITS : 1;
  for (int64_t i = 0; i < p.pixels; i++)
    for (int64_t first = 0; first < p.channels; first += 32) {
      uint32_t words[PLANES] = {};
      for (int64_t k = 0; k < 32 && first + k < p.channels; k += WIDTH) {
        const Some wanted = below(p.channels - first - k);
        const Lanes x = load(wanted, p.x + i * p.step + first + k);
        if (BITS == 0) {
          words[0] |= bits(wanted, reaches(x, load(wanted, p.threshold + first + k))) << k;
          continue;
        }
        const Words q = levels(x, p);
#pragma GCC unroll 4
        for (int b = 0; b < BITS; b++) words[b] |= bits(wanted, has(q, 1u << b)) << k;
      }
      for (int b = 0; b < PLANES; b++) p.words[(b * p.pixels + i) * p.row + first / 32] = words[b];
    }
}

void pack_rows(const Pack& p) {
  static constexpr void (*by_bits[])(const Pack&) = {pack_row_bits<0>, pack_row_bits<1>, pack_row_bits<2>,
                                                     pack_row_bits<3>, pack_row_bits<4>};
  by_bits[p.bits](p);
}

template <bool PRODUCT, bool MAP>
INLINE Lanes finished(const Finish& f, int row, int lane) {
  const int32_t* base = f.base + row * f.kinds;
  const Words from = PRODUCT          ? load(f.base + lane)
                     : f.kinds <= 16 ? pick(base, load(f.kind + lane))
                                     : gather(base, load(f.kind + lane));
  const Words sum = minus(from, load(f.sums + row * CHUNK + lane));
  const Lanes value = times(to_float(sum), PRODUCT ? load(f.scale + lane) : every(f.scale[row]));
  return plus(MAP ? times(value, load(below(f.lanes - lane), f.map + lane)) : value,
              PRODUCT ? load(f.bias + lane) : every(f.bias[row]));
}

template <bool PRODUCT, bool MAP>
TARGET void finish_rows(const Finish f) {
  for (int row = 0; row < f.rows; row++) {
    float* out = f.out + row * f.step;
    int lane = 0;
    for (; lane + WIDTH <= f.lanes; lane += WIDTH) store(out + lane, finished<PRODUCT, MAP>(f, row, lane));
    if (lane < f.lanes) store(below(f.lanes - lane), out + lane, finished<PRODUCT, MAP>(f, row, lane));
  }
}

void finish(const Finish& f) {
  (f.product ? finish_rows<true, false> : f.map ? finish_rows<false, true> : finish_rows<false, false>)(f);
}
