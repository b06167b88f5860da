// Depthwise convolution: one output channel for every input channel, K x K taps with stride S, straight from the planes.
//
// R rows of outputs at once, so that a loaded vector serves every row whose window it lies in; pixels in lanes. Loops:
// unit (image, channel) > R rows > V vectors of a row > row of the input > column of taps. A stride of two takes every
// second pixel while loading, where other kernels deal the input into phases first.

// The pixels under each column of taps, for a vector of outputs that lie S apart.
template <int K, int S>
__attribute__((always_inline)) inline void load_columns(const float* p, Vec (&pixels)[K]) {
  if constexpr (S == 1) {
    each<K>(DOVETAIL_LAMBDA(int s) { pixels[s] = load(p + s); });
  } else {
    each<(K + 1) / 2>(DOVETAIL_LAMBDA(int i) {
      const Vec low = load(p + 2 * i), high = load(p + 2 * i + kLanes);
      pixels[2 * i] = even_lanes(low, high);
      if (2 * i + 1 < K) pixels[2 * i + 1] = odd_lanes(low, high);
    });
  }
}

struct DepthwiseRows {
  const float *x, *weight, *residual;
  float* y;
  const Run* runs;
  const uint32_t* masks;
  int64_t x_row;
  Vec bias;
};

// R rows by V vectors, from vector j on.
template <int K, int S, int R, int V>
inline void depthwise_tile(const DepthwiseRows& t, const Vec (&weights)[K * K], const Clamp& clamp, int j) {
  Vec acc[R][V];
  each<R>(DOVETAIL_LAMBDA(int r) { each<V>(DOVETAIL_LAMBDA(int v) { acc[r][v] = t.bias; }); });
  const float* x = t.x + j * kLanes * S;
  each<(R - 1) * S + K>(DOVETAIL_LAMBDA(int i) {
    each<V>(DOVETAIL_LAMBDA(int v) {
      Vec pixels[K];
      load_columns<K, S>(x + i * t.x_row + v * kLanes * S, pixels);
      each<R>(DOVETAIL_LAMBDA(int r) {
        const int row = i - r * S;
        if (row >= 0 && row < K) each<K>(DOVETAIL_LAMBDA(int s) { acc[r][v] = fma(weights[row * K + s], pixels[s], acc[r][v]); });
      });
    });
  });
  each<R>(DOVETAIL_LAMBDA(int r) {
    const Run& run = t.runs[r];
    finish<V>(acc[r], clamp, t.residual ? t.residual + run.y : nullptr, t.y + run.y, t.masks + run.mask, j, run.pixels);
  });
}

template <int K, int S, int R>
void depthwise_rows(const DepthwiseRows& t, const Clamp& clamp) {
  Vec weights[K * K];
  each<K * K>(DOVETAIL_LAMBDA(int i) { weights[i] = splat(t.weight[i]); });
  const int vectors = vectors_of(t.runs[0]);
  int j = 0;
  for (; j + 2 <= vectors; j += 2) depthwise_tile<K, S, R, 2>(t, weights, clamp, j);
  if (j < vectors) depthwise_tile<K, S, R, 1>(t, weights, clamp, j);
}

using DepthwiseFunction = void (*)(const DepthwiseRows&, const Clamp&);

template <int K, int S>
inline DepthwiseFunction depthwise_rows_of(int64_t rows) {
  switch (rows) {
    case 1: return depthwise_rows<K, S, 1>;
    case 2: return depthwise_rows<K, S, 2>;
    case 3: return depthwise_rows<K, S, 3>;
    default: return depthwise_rows<K, S, 4>;
  }
}

template <int K, int S>
void depthwise(const ConvDepthwiseArgs& a, Worker& worker) {
  const Run* runs = runs_of(a.runs);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t units = a.images * a.channels;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.channels, channel = unit % a.channels;
      DepthwiseRows t;
      t.weight = a.weight + channel * K * K;
      t.y = a.y + image * a.y_image + channel * a.y_channel;
      t.residual = a.residual ? a.residual + image * a.r_image + channel * a.r_channel : nullptr;
      t.masks = a.masks, t.x_row = a.x_row;
      t.bias = splat(a.bias ? a.bias[channel] : 0.0f);
      const float* x = a.x + image * a.x_image + channel * a.x_channel;
      even_pieces(static_cast<int>(a.run_count), 4, [&](int first, int count) {
        t.runs = runs + first, t.x = x + t.runs->x;
        depthwise_rows_of<K, S>(count)(t, clamp);
      });
      for (const Run* run = runs; run != runs + a.run_count && !clamp.exact; ++run)
        activate_run(t.y + run->y, *run, a.masks + run->mask, static_cast<Activation>(a.activation), a.act_a, a.act_b);
      const Run& last = runs[a.run_count - 1];
      for (int64_t i = 0; i < a.rest; i += kLanes) put(t.y + last.y + last.pixels + i, splat(0.0f), static_cast<int>(a.rest - i));
      zero_lead(t.y, a.y_channel, a.lead, channel + 1 == a.channels);
    }
  });
}

void conv2d_depthwise_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvDepthwiseArgs*>(arguments);
  if (a.side == 3) {
    (a.stride == 1 ? depthwise<3, 1> : depthwise<3, 2>)(a, worker);
  } else {
    (a.stride == 1 ? depthwise<5, 1> : depthwise<5, 2>)(a, worker);
  }
}
