// What the kernels over codes share: words of four channels, and the one rounding at the end of every sum.

struct Rounding {
  Vec low, high;  // limits of a code, less its zero
  bool any;       // byte may be a code: no limits but those
  Vec ratio;      // of the residual
  Ints zero, r_zero;
  Ints zeros;  // two of 16 bits in a word
  int32_t halo;  // four zeros in a word
  Clamp clamp;   // of float32 results
  Activation kind;
  float a, b;
  bool real;
};

inline int32_t four_of(int64_t code) { return static_cast<int32_t>(static_cast<uint32_t>(code) * 0x01010101u); }

template <class Args>
inline Rounding rounding_of(const Args& a) {
  Rounding r;
  r.low = splat(static_cast<float>(a.low - a.zero)), r.high = splat(static_cast<float>(a.high - a.zero));
  r.any = a.low == 0 && a.high == 255;
  r.ratio = splat(a.r_ratio);
  r.zeros = splat_word(static_cast<int32_t>(a.zero) * 0x00010001);
  r.zero = splat_word(static_cast<int32_t>(a.zero)), r.r_zero = splat_word(static_cast<int32_t>(a.r_zero));
  r.halo = a.real ? 0 : four_of(a.zero);
  r.clamp = clamp_of(a.activation, a.act_a, a.act_b);
  r.kind = static_cast<Activation>(a.activation), r.a = a.act_a, r.b = a.act_b;
  r.real = a.real != 0;
  return r;
}

// Clamping before rounding to whole numbers is clamping after it, for the limits are whole; and nothing overflows. Of
// NaN and a limit, `max` gives its second operand.
inline Ints to_code(Vec t, Vec low, Vec high, Ints zero) { return add(to_whole(min(max(t, low), high)), zero); }

inline Ints load_some_words(const int32_t* p, int lanes) { return lanes >= kLanes ? load_words(p) : load_words_first(p, lanes); }

// Four outputs by P vectors of pixels of a run become words. `y` and `residual` point at the run's start.
template <int P>
__attribute__((always_inline)) inline void finish_words(const Ints (*acc)[P], const float* multiplier, const Rounding& r, const int32_t* residual, int32_t* y, const uint32_t* masks, int first, int pixels) {
  each<P>(DOVETAIL_LAMBDA(int j) {
    const int at = (first + j) * kLanes;
    const Ints other = residual ? load_words(residual + at) : splat_word(0);
    Ints word = splat_word(0);
    Vec t[4];
    each<4>(DOVETAIL_LAMBDA(int i) {
      t[i] = mul(to_real(acc[i][j]), splat(multiplier[i]));
      if (residual) t[i] = add(t[i], mul(to_real(sub(byte_of(other, i), r.r_zero)), r.ratio));
    });
    if (r.any) {
      word = to_code_words(t, r.zeros);
    } else {
      each<4>(DOVETAIL_LAMBDA(int i) { word = either(word, up(to_code(t[i], r.low, r.high, r.zero), 8 * i)); });
    }
    put_words(y + at, keep(word, masks[first + j], splat_word(r.halo)), pixels - at);
  });
}

// One output of a run in float32.
template <int P>
__attribute__((always_inline)) inline void finish_real(const Ints (&acc)[P], float multiplier, const Rounding& r, const float* residual, float* y, const uint32_t* masks, int first, int pixels) {
  Vec t[P];
  each<P>(DOVETAIL_LAMBDA(int j) { t[j] = mul(to_real(acc[j]), splat(multiplier)); });
  finish<P>(t, r.clamp, residual, y, masks, first, pixels);
}

// Where a run of one image and four outputs (from a multiple of four) reads its residual and writes.
struct CodePlace {
  const Rounding* rounding;
  const float* multiplier;
  const void* residual;
  void* y;
  int64_t y_channel, r_channel;
  const uint32_t* masks;
  int outputs, pixels;  // outputs: real ones among the four (or eight)
};

template <class Args>
inline CodePlace place_of(const Args& a, const Rounding& r, int64_t image, int64_t first, int64_t outputs, const Run& run) {
  const int64_t plane = r.real ? first : first / 4;
  CodePlace p;
  p.rounding = &r, p.multiplier = a.multiplier + first;
  p.y = static_cast<int32_t*>(a.y) + image * a.y_image + plane * a.y_channel + run.y;
  p.residual = a.residual ? static_cast<const int32_t*>(a.residual) + image * a.r_image + plane * a.r_channel + run.y : nullptr;
  p.y_channel = a.y_channel, p.r_channel = a.r_channel;
  p.masks = a.masks + run.mask, p.pixels = run.pixels;
  p.outputs = static_cast<int>(a.out_channels - first < outputs ? a.out_channels - first : outputs);
  return p;
}

// Outputs 4 g .. 4 g + 3 of a place.
template <int P>
__attribute__((always_inline)) inline void finish_four(const Ints (*acc)[P], int g, const CodePlace& p, int first) {
  const Rounding& r = *p.rounding;
  if (!r.real) {
    const auto* residual = p.residual ? static_cast<const int32_t*>(p.residual) + g * p.r_channel : nullptr;
    finish_words<P>(acc, p.multiplier + 4 * g, r, residual, static_cast<int32_t*>(p.y) + g * p.y_channel, p.masks, first, p.pixels);
    return;
  }
  each<4>(DOVETAIL_LAMBDA(int i) {
    const int k = 4 * g + i;
    if (k >= p.outputs) return;
    const auto* residual = p.residual ? static_cast<const float*>(p.residual) + k * p.r_channel : nullptr;
    finish_real<P>(acc[i], p.multiplier[k], r, residual, static_cast<float*>(p.y) + k * p.y_channel, p.masks, first, p.pixels);
  });
}

// Four outputs whose sums lie pixel by pixel, without gaps, `step` from one output to the next: they end by whole vectors, in
// `room` (for twice as many vectors, and one), and go out row by row. A run's x offset is that of its sums; its y offset, and
// the place, count from the first run.
inline void finish_gapless(const int32_t* sums, int64_t step, int64_t vectors, const CodePlace& place, const Run* runs, int64_t count, const uint32_t* masks, int32_t* room) {
  static constexpr uint32_t all = ~0u;
  const Rounding& r = *place.rounding;
  const auto* residual = static_cast<const int32_t*>(place.residual);
  int32_t* const other = room + vectors * kLanes;
  const int64_t row = count > 1 ? runs[1].x - runs->x : vectors * kLanes;
  for (const Run* run = runs; run != runs + count && residual; ++run)
    for (int64_t at = 0; at < row; at += kLanes)
      store_words(other + run->x - runs->x + at, load_words(residual + run->y - runs->y + at));
  for (int64_t at = 0; at < vectors * kLanes; at += kLanes) {
    Ints four[4][1];
    each<4>(DOVETAIL_LAMBDA(int i) { four[i][0] = load_words(sums + i * step + at); });
    finish_words<1>(four, place.multiplier, r, residual ? other + at : nullptr, room + at, &all, 0, kLanes);
  }
  for (const Run* run = runs; run != runs + count; ++run) {
    auto* y = static_cast<int32_t*>(place.y) + run->y - runs->y;
    for (int at = 0; at < run->pixels; at += kLanes)
      put_words(y + at, keep(load_words(room + run->x - runs->x + at), masks[run->mask + at / kLanes], splat_word(r.halo)), run->pixels - at);
  }
}

// What follows once all pieces of a run are done: dear activations of float32 results, and what lies before the planes.
template <class Args>
inline void end_place(const Args& a, const CodePlace& p, const Run& run, int64_t image, int64_t first, int64_t outputs, bool leads) {
  const Rounding& r = *p.rounding;
  if (r.real && !r.clamp.exact)
    for (int k = 0; k < p.outputs; ++k)
      activate_run(static_cast<float*>(p.y) + k * p.y_channel, run, p.masks, r.kind, r.a, r.b);
  if (!leads || !a.lead) return;
  const int64_t step = r.real ? 1 : 4, planes = (a.out_channels + step - 1) / step;
  auto* y = static_cast<int32_t*>(a.y) + image * a.y_image;
  for (int64_t plane = first / step; plane < (first + outputs) / step && plane < planes; ++plane)
    fill_lead(y + plane * a.y_channel, a.y_channel, a.lead, plane + 1 == planes, r.halo);
}
