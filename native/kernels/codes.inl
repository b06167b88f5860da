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

// The words of four outputs; `other`: those of the residual, if there is one.
__attribute__((always_inline)) inline Ints code_words(const Ints (&sums)[4], const Vec (&multiplier)[4], const Rounding& r, bool residual, Ints other) {
  Vec t[4];
  each<4>(DOVETAIL_LAMBDA(int i) {
    t[i] = mul(to_real(sums[i]), multiplier[i]);
    if (residual) t[i] = add(t[i], mul(to_real(sub(byte_of(other, i), r.r_zero)), r.ratio));
  });
  if (r.any) return to_code_words(t, r.zeros);
  Ints word = splat_word(0);
  each<4>(DOVETAIL_LAMBDA(int i) { word = either(word, up(to_code(t[i], r.low, r.high, r.zero), 8 * i)); });
  return word;
}

// Four outputs by P vectors of pixels of a run become words. `y` and `residual` point at the run's start.
template <int P>
__attribute__((always_inline)) inline void finish_words(const Ints (*acc)[P], const float* multiplier, const Rounding& r, const int32_t* residual, int32_t* y, const uint32_t* masks, int first, int pixels) {
  const Vec multipliers[4] = {splat(multiplier[0]), splat(multiplier[1]), splat(multiplier[2]), splat(multiplier[3])};
  each<P>(DOVETAIL_LAMBDA(int j) {
    const int at = (first + j) * kLanes;
    const Ints other = residual ? load_words(residual + at) : splat_word(0);
    const Ints four[4] = {acc[0][j], acc[1][j], acc[2][j], acc[3][j]};
    put_words(y + at, keep(code_words(four, multipliers, r, residual, other), masks[first + j], splat_word(r.halo)), pixels - at);
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

// Where the pixels of a vector of several rows go in a plane: row by row, with zeros behind each. Every vector goes alike, into one
// or two vectors of words.
struct Spread {
  Ints from[2] = {}, back = {};  // for each word the lane that it comes from, and for each lane the word that it is
  uint32_t pixels = 0;  // words that are no zeros
  int64_t count = 0, rows = 0, pitch = 0, total = 0;  // rows in all, and of a vector
  bool fits = false;  // rows are parts of vectors, and the words of one are two vectors at most

  Spread() = default;

  // Of `count` runs, one a row, of `row` lanes.
  Spread(const Run* runs, int64_t count, const uint32_t* masks, int64_t row) : count(count), rows(kLanes / row) {
    const Run& last = runs[count - 1];
    total = last.y + last.pixels - runs->y;
    pitch = count > 1 ? runs[1].y - runs->y : total;
    fits = row < kLanes && rows * pitch <= 2 * kLanes;
    if (!fits) return;
    int32_t lanes[2 * kLanes] = {}, words[kLanes];
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < row; ++c) words[r * row + c] = static_cast<int32_t>(r * pitch + c < 2 * kLanes ? r * pitch + c : 0);
      for (int64_t c = 0; c < row && masks[runs->mask] >> c & 1; ++c) lanes[r * pitch + c] = static_cast<int32_t>(r * row + c), pixels |= 1u << (r * pitch + c);
    }
    from[0] = load_words(lanes), from[1] = load_words(lanes + kLanes), back = load_words(words);
  }
};

// Four outputs whose sums lie so, `step` from one output to the next; the place is that of the first run.
inline void finish_spread(const int32_t* sums, int64_t step, const CodePlace& place, const Spread& spread) {
  const Rounding r = *place.rounding;  // a copy: what is written below could be the original, for all that gcc knows
  const Vec multipliers[4] = {splat(place.multiplier[0]), splat(place.multiplier[1]), splat(place.multiplier[2]), splat(place.multiplier[3])};
  const Ints halo = splat_word(r.halo);
  const auto* residual = static_cast<const int32_t*>(place.residual);
  auto* y = static_cast<int32_t*>(place.y);
  const int64_t most = spread.rows * spread.pitch;
  int64_t words = spread.total;
  for (int64_t rows = spread.count; rows > 0; rows -= spread.rows, words -= most, y += most, sums += kLanes) {
    const bool last = rows <= spread.rows;
    const auto count = static_cast<int>(last ? words : most);
    Ints four[4], other = splat_word(0);
    each<4>(DOVETAIL_LAMBDA(int i) { four[i] = load_words(sums + i * step); });
    if (residual) other = pick_of_two(load_words(residual), load_words(residual + kLanes), spread.back), residual += most;
    const Ints word = code_words(four, multipliers, r, residual, other);
    const uint32_t pixels = rows < spread.rows ? spread.pixels & ((1u << (rows * spread.pitch)) - 1) : spread.pixels;
    put_words(y, keep(pick_lanes(word, spread.from[0]), pixels, halo), count);
    if (count > kLanes) put_words(y + kLanes, keep(pick_lanes(word, spread.from[1]), pixels >> kLanes, halo), count - kLanes);
    if (count > 2 * kLanes) fill_words(y, 2 * kLanes, count, r.halo);
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
