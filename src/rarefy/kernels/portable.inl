// The plain loops, shared by all versions and compiled for each: TARGET says for which instructions. A version need
// not use all.
#define UNUSED __attribute__((unused))

static inline float finished(const Finish& f, int64_t pixel, int lane) {
  float value = static_cast<float>(f.base[pixel][lane] - (f.counts[pixel * BLOCK + lane] << f.shift)) * f.scale[lane];
  if (f.map) value *= f.map[pixel];
  return value + f.bias[lane];
}

UNUSED TARGET static void finish_planes_plain(const Finish& f) {
  float* out = static_cast<float*>(f.out);
  for (int lane = 0; lane < f.filters; lane++)
    for (int64_t i = 0; i < f.count; i++) out[lane * f.step + i] = finished(f, i, lane);
}

UNUSED TARGET static void finish_rows_plain(const Finish& f) {
  float* out = static_cast<float*>(f.out);
  for (int64_t i = 0; i < f.count; i++)
    for (int lane = 0; lane < f.filters; lane++) out[i * f.step + lane] = finished(f, i, lane);
}

UNUSED TARGET static void finish_words_plain(const Finish& f) {
  uint32_t* out = static_cast<uint32_t*>(f.out);
  for (int64_t i = 0; i < f.count; i++)
    for (int lane = 0; lane < f.filters; lane++) {
      uint32_t& word = out[i * f.step + lane / 32];
      if (lane % 32 == 0) word = 0;
      word |= static_cast<uint32_t>(finished(f, i, lane) >= 0.0f) << lane % 32;
    }
}

// The activation of x as an integer; a NaN is the lowest.
static inline uint32_t level(float x, const Pack& p) {
  if (p.bits == 0) return x >= 0.0f;
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
      const uint32_t q = level(p.x[c * p.step + i], p);
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
      Pack one{p.x + i * p.step + w * 32, 1, left < 32 ? left : 32, 1, p.bits, p.steps, nullptr, 0};
      uint32_t found[4];
      one.words = found;
      pack_planes_plain(one);
      for (int b = 0; b < (p.bits ? p.bits : 1); b++) out[b * p.pixels * p.row] = found[b];
    }
}
