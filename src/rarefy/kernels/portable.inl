// The plain loops, shared by all versions and compiled for each: TARGET says for which instructions. A version need
// not use all.
#define UNUSED __attribute__((unused))

UNUSED TARGET static void finish_plain(const Finish& f) {
  for (int row = 0; row < f.rows; row++)
    for (int lane = 0; lane < f.lanes; lane++) {
      const int filter = f.product ? lane : row;
      const int32_t base = f.product ? f.base[lane] : f.base[row * f.kinds + f.kind[lane]];
      float value = static_cast<float>(base - f.sums[row * CHUNK + lane]) * f.scale[filter];
      if (f.map) value *= f.map[lane];
      f.out[row * f.step + lane] = value + f.bias[filter];
    }
}

// The activation of x as an integer; a NaN is the lowest.
static inline uint32_t level(float x, float threshold, const Pack& p) {
  if (p.bits == 0) return x >= threshold;
  const float top = static_cast<float>((1 << p.bits) - 1);
  const float scaled = x * p.steps;
  if (!(scaled > 0.0f)) return 0;
  return static_cast<uint32_t>(nearbyintf(scaled < top ? scaled : top));
}

UNUSED TARGET static void pack_planes_plain(const Pack& p) {
  const int planes = p.bits ? p.bits : 1;
  for (int64_t i = 0; i < p.pixels; i++) {
    uint32_t words[4] = {0, 0, 0, 0};
    for (int64_t c = 0; c < p.channels; c++) {
      const uint32_t q = level(p.x[c * p.step + i], p.threshold[c], p);
      for (int b = 0; b < planes; b++) words[b] |= (q >> b & 1) << c;
    }
    for (int b = 0; b < planes; b++) p.words[b * p.pixels + i] = words[b];
  }
}

UNUSED TARGET static void pack_rows_plain(const Pack& p) {
  const int64_t words = (p.channels + 31) / 32;
  for (int64_t i = 0; i < p.pixels; i++)
    for (int64_t w = 0; w < words; w++) {
      const int64_t left = p.channels - w * 32;
      uint32_t* out = p.words + i * p.row + w;
      Pack one{p.x + i * p.step + w * 32, p.threshold + w * 32, 1, left < 32 ? left : 32, 1, p.bits, p.steps, nullptr, 0};
      uint32_t found[4];
      one.words = found;
      pack_planes_plain(one);
      for (int b = 0; b < (p.bits ? p.bits : 1); b++) out[b * p.pixels * p.row] = found[b];
    }
}

// A copy always takes as many units: what is too much belongs to no pixel, or is written over by the next, but for some
// after the last row.
template <typename Unit, int WIDTH>
UNUSED TARGET static void lay_runs(const Lay& l) {
  const Unit* image = reinterpret_cast<const Unit*>(l.image);
  Unit* to = reinterpret_cast<Unit*>(l.panel);
  for (int64_t k = 0; k < l.count; k++, to += LANES)
    for (int i = 0; i < l.run_count; i++)
      memcpy(to + l.runs[i].lane, image + l.places[k] + l.runs[i].from, WIDTH * sizeof(Unit));
  memset(to, 0, static_cast<size_t>(l.depth - l.count) * LANES * sizeof(Unit));
}

template <typename Unit>
UNUSED TARGET static void lay_plain(const Lay& l) {
  (l.narrow ? lay_runs<Unit, LANES / 2> : lay_runs<Unit, LANES>)(l);
}
