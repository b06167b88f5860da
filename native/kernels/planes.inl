// What the convolutions share: runs of pixels, the epilogue, and the zeros around a plane.

// f(0), f(1), …, f(N - 1), unrolled before anything else: accumulators indexed by these constants live in registers
// (left to ordinary loops, gcc writes them to the stack and back around the main loop).
#ifndef DOVETAIL_SANITIZE
template <int N, class F>
__attribute__((always_inline)) inline void each(const F& f) {
  if constexpr (N > 0) {
    each<N - 1>(f);
    f(N - 1);
  }
}
#define DOVETAIL_LAMBDA(...) [&](__VA_ARGS__) __attribute__((always_inline))
#else  // with a check at every access, unrolled kernels take gcc a quarter of an hour
template <int N, class F>
inline void each(const F& f) {
  for (int i = 0; i < N; ++i) f(i);
}
#define DOVETAIL_LAMBDA(...) [&](__VA_ARGS__)
#endif

// Weights that come from memory are fetched so many elements early: beyond what the hardware looks ahead within a page.
constexpr int64_t kAhead = 2048;

struct Run {
  int32_t x, y, pixels, mask;
};

inline const Run* runs_of(const int32_t* words) { return reinterpret_cast<const Run*>(words); }
inline int vectors_of(const Run& run) { return (run.pixels + kLanes - 1) / kLanes; }

// The cheap activations are one clamp; the others need a second pass over what was stored.
struct Clamp {
  Vec low, high;
  bool exact;
};

inline Clamp clamp_of(int64_t activation, float a, float b) {
  const float infinity = __builtin_huge_valf();
  switch (static_cast<Activation>(activation)) {
    case Activation::none: return {splat(-infinity), splat(infinity), true};
    case Activation::relu: return {splat(0.0f), splat(infinity), true};
    case Activation::clamp: return {splat(a), splat(b), true};
    default: return {splat(-infinity), splat(infinity), false};
  }
}

// The operand that may be NaN stands second: that is the one that max and min return then.
inline Vec bounded(Vec v, const Clamp& clamp) { return min(clamp.high, max(clamp.low, v)); }

inline void put(float* y, Vec v, int lanes) {
  if (lanes >= kLanes) {
    store(y, v);
  } else {
    store_first(y, v, lanes);
  }
}

inline void put_words(int32_t* y, Ints v, int lanes) {
  if (lanes >= kLanes) {
    store_words(y, v);
  } else {
    store_words_first(y, v, lanes);
  }
}

// `word` from `at` up to `end`.
inline void fill_words(int32_t* y, int64_t at, int64_t end, int32_t word) {
  for (; at < end; at += kLanes) put_words(y + at, splat_word(word), end - at < kLanes ? static_cast<int>(end - at) : kLanes);
}

// Stores vectors first .. first + P - 1 of a run of one output channel. `y` and `residual` point at the run's start.
template <int P>
__attribute__((always_inline)) inline void finish(const Vec (&acc)[P], const Clamp& clamp, const float* residual, float* y, const uint32_t* masks, int first, int pixels) {
  each<P>(DOVETAIL_LAMBDA(int j) {
    const int at = (first + j) * kLanes;
    Vec v = acc[j];
    if (residual) v = add(v, load(residual + at));
    v = keep(bounded(v, clamp), masks[first + j]);
    put(y + at, v, pixels - at);
  });
}

// The second pass of the dear activations, over one run of one channel.
__attribute__((noinline)) void activate_run(float* y, const Run& run, const uint32_t* masks, Activation kind, float a, float b) {
  for (int j = 0; j < vectors_of(run); ++j) {
    const int at = j * kLanes, lanes = run.pixels - at;
    const Vec v = lanes >= kLanes ? load(y + at) : load_first(y + at, lanes);
    put(y + at, keep(activate(v, kind, a, b), masks[j]), lanes);
  }
}

// Runs whose sums were kept: the x offset of each is that of its sums. `y` and `residual` point at the plane.
inline void finish_runs(const float* sums, const Run* runs, int64_t count, const Clamp& clamp, const float* residual, float* y, const uint32_t* masks, int64_t activation, float a, float b) {
  for (const Run* run = runs; run != runs + count; ++run) {
    for (int j = 0; j < vectors_of(*run); ++j) {
      const Vec sum[1] = {load(sums + run->x + j * kLanes)};
      finish<1>(sum, clamp, residual ? residual + run->y : nullptr, y + run->y, masks + run->mask, j, run->pixels);
    }
    if (!clamp.exact) activate_run(y + run->y, *run, masks + run->mask, static_cast<Activation>(activation), a, b);
  }
}

// What lies before plane `channel`, and after it where it is the last one. `lead` is a multiple of the lanes or zero.
inline void fill_lead(int32_t* plane, int64_t stride, int64_t lead, bool last, int32_t word) {
  for (int64_t i = 0; i < lead; i += kLanes) store_words(plane - lead + i, splat_word(word));
  if (last)
    for (int64_t i = 0; i < lead; i += kLanes) store_words(plane + stride - lead + i, splat_word(word));
}

inline void zero_lead(float* plane, int64_t stride, int64_t lead, bool last) {
  const Vec zero = in_register(splat(0.0f));  // else gcc calls memset for a line or two
  for (int64_t i = 0; i < lead; i += kLanes) store(plane - lead + i, zero);
  if (last)
    for (int64_t i = 0; i < lead; i += kLanes) store(plane + stride - lead + i, zero);
}

// Cuts `vectors` into pieces of at most `most`, as even as they come, and calls body(first, count).
template <class Body>
inline void even_pieces(int vectors, int most, const Body& body) {
  const int pieces = vectors <= most ? 1 : (vectors + most - 1) / most;  // divisions are dear where pieces are small
  const int size = pieces == 1 ? vectors : vectors / pieces, longer = vectors - pieces * size;
  for (int i = 0, first = 0; i < pieces; ++i) {
    const int count = size + (i < longer);
    body(first, count);
    first += count;
  }
}
