// Depthwise convolution: one output channel for every input channel, K x K taps with stride S, straight from the planes.
//
// Pixels in lanes. Loops: unit (image, channel) > V vectors of a row > rows of the input, from top to bottom. A row of
// the input is loaded once and added to every row of the output whose window it lies in: the sums of ceil(K / S) rows are
// in registers, in turn. A stride of two takes every second pixel while loading, where other kernels deal the input into
// phases first. Padding is left out: rows above and below are skipped, columns beside are masked once they are loaded (whatever
// lies there, up to a width of the weights before the first plane), so the planes need no halo. What a row's last vector writes beyond its row is written again by the rows below: so columns go from
// right to left.

struct DepthwisePlane {
  const float *x, *weight, *residual;
  float* y;
  int64_t x_rows, x_width, x_row, top, left;  // the input, and where the first tap of the first output lies: before x
  int64_t rows, width, y_row, room;           // the output; room: elements of the plane from y on
  float bias;
};

// The pixels under each column of taps, for V vectors of outputs that lie S apart.
template <int K, int S, int V>
__attribute__((always_inline)) inline void load_columns(const float* p, Vec (&pixels)[K][V]) {
  if constexpr (S == 1) {
    each<K>(DOVETAIL_LAMBDA(int s) {
      each<V>(DOVETAIL_LAMBDA(int v) { pixels[s][v] = in_register(load(p + v * kLanes + s)); });
    });
  } else {
    each<V>(DOVETAIL_LAMBDA(int v) {
      const Vec low = in_register(load(p + 2 * v * kLanes)), high = in_register(load(p + (2 * v + 1) * kLanes));
      pixels[0][v] = even_lanes(low, high), pixels[1][v] = odd_lanes(low, high);
    });
    each<K - 2>(DOVETAIL_LAMBDA(int s) {
      each<V>(DOVETAIL_LAMBDA(int v) {
        pixels[s + 2][v] = moved_up(pixels[s][v], v + 1 < V ? pixels[s][v + 1 < V ? v + 1 : 0] : splat(p[2 * V * kLanes + s]));
      });
    });
  }
}

inline uint32_t bits_below(int64_t n) { return n >= kLanes ? ~0u : n <= 0 ? 0u : (1u << n) - 1u; }

// The lanes whose columns, the first one `at` and each S from the next, are within the width.
template <int S>
inline Mask columns_within(int64_t at, int64_t width) {
  const int64_t first = at < 0 ? (S - 1 - at) / S : 0, end = at < width ? (width - at + S - 1) / S : 0;
  return mask_of(bits_below(end) & ~bits_below(first));
}

// V vectors of all rows, from vector j on; Edge: some of their taps may lie beside the input.
template <int K, int S, int V, bool Edge>
void depthwise_columns(const DepthwisePlane& t, const Clamp& bounds, int64_t j) {
  constexpr int kSums = (K + S - 1) / S;
  const Vec bias = splat(t.bias);
  const Clamp clamp = bounds;
  Vec weights[K * K], sums[kSums][V];
  each<K * K>(DOVETAIL_LAMBDA(int i) { weights[i] = splat(t.weight[i]); });
  each<kSums>(DOVETAIL_LAMBDA(int i) { each<V>(DOVETAIL_LAMBDA(int v) { sums[i][v] = bias; }); });
  Mask inside[K][V];
  each<K>(DOVETAIL_LAMBDA(int s) {
    each<V>(DOVETAIL_LAMBDA(int v) { inside[s][v] = columns_within<S>((j + v) * kLanes * S + s - t.left, t.x_width); });
  });
  int64_t row = -t.top;
  const float* x = t.x - t.top * t.x_row - t.left + j * kLanes * S;
  // The next row of the input, under row `tap` of the taps of the output row whose sums are sums[oldest].
  const auto add_row = DOVETAIL_LAMBDA(int oldest, int tap) {
    if (row >= 0 && row < t.x_rows) {
      Vec pixels[K][V];
      load_columns<K, S, V>(x, pixels);
      each<K>(DOVETAIL_LAMBDA(int s) {
        each<V>(DOVETAIL_LAMBDA(int v) {
          if constexpr (Edge) pixels[s][v] = keep(pixels[s][v], inside[s][v]);
        });
      });
      each<kSums>(DOVETAIL_LAMBDA(int i) {
        const int under = tap - i * S;
        if (under < 0) return;
        each<K>(DOVETAIL_LAMBDA(int s) {
          each<V>(DOVETAIL_LAMBDA(int v) {
            Vec& sum = sums[(oldest + i) % kSums][v];
            sum = fma(weights[under * K + s], pixels[s][v], sum);
          });
        });
      });
    }
    ++row, x += t.x_row;
  };
  each<K - S>(DOVETAIL_LAMBDA(int tap) { add_row(0, tap); });
  float* y = t.y + j * kLanes;
  const float* residual = t.residual ? t.residual + j * kLanes : nullptr;
  int64_t room = t.room - j * kLanes;
  const Mask last = columns_within<1>((j + V - 1) * kLanes, t.width);
  for (int64_t first = 0; first < t.rows; first += kSums)
    each<kSums>(DOVETAIL_LAMBDA(int i) {
      if (first + i >= t.rows) return;
      each<S>(DOVETAIL_LAMBDA(int s) { add_row(i, K - S + s); });
      each<V>(DOVETAIL_LAMBDA(int v) {
        Vec sum = sums[i][v];
        if (residual) sum = add(sum, load(residual + v * kLanes));
        sum = bounded(sum, clamp);
        if (v + 1 == V) sum = keep(sum, last);
        const int64_t lanes = room - v * kLanes;
        put(y + v * kLanes, sum, lanes < kLanes ? static_cast<int>(lanes) : kLanes);
        sums[i][v] = bias;
      });
      y += t.y_row, room -= t.y_row;
      if (residual) residual += t.y_row;
    });
}

// What vectors of pixels leave of the gaps between rows, and of the room after the last one.
inline void zero_gaps(const DepthwisePlane& t, int64_t vectors) {
  auto* y = reinterpret_cast<int32_t*>(t.y);
  const int64_t last = (t.rows - 1) * t.y_row;
  for (int64_t row = 0; row < last && vectors * kLanes < t.y_row; row += t.y_row) fill_words(y + row, vectors * kLanes, t.y_row, 0);
  fill_words(y + last, vectors * kLanes, t.room - last, 0);
}

// The second pass of the dear activations.
inline void activate_rows(const DepthwisePlane& t, Activation kind, float a, float b) {
  for (int64_t row = 0; row < t.rows; ++row)
    for (int64_t at = 0; at < t.width; at += kLanes) {
      const int lanes = t.width - at < kLanes ? static_cast<int>(t.width - at) : kLanes;
      float* y = t.y + row * t.y_row + at;
      put(y, activate(lanes == kLanes ? load(y) : load_first(y, lanes), kind, a, b), lanes);
    }
}

template <int K, int S>
inline void depthwise_plane(const DepthwisePlane& t, const Clamp& clamp) {
  const int64_t vectors = (t.width + kLanes - 1) / kLanes;
  int64_t j = vectors;
  while ((j -= 2) >= 0) {
    const int64_t first = j * kLanes * S - t.left, last = first + (2 * kLanes - 1) * S + K - 1;
    (first >= 0 && last < t.x_width ? depthwise_columns<K, S, 2, false> : depthwise_columns<K, S, 2, true>)(t, clamp, j);
  }
  if (j + 1 == 0) depthwise_columns<K, S, 1, true>(t, clamp, 0);
  zero_gaps(t, vectors);
}

template <int K, int S>
void depthwise(const ConvDepthwiseArgs& a, Worker& worker) {
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t units = a.images * a.channels;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.channels, channel = unit % a.channels;
      DepthwisePlane t;
      t.x = a.x + image * a.x_image + channel * a.x_channel;
      t.y = a.y + image * a.y_image + channel * a.y_channel;
      t.residual = a.residual ? a.residual + image * a.r_image + channel * a.r_channel : nullptr;
      t.weight = a.weight + channel * K * K, t.bias = a.bias ? a.bias[channel] : 0.0f;
      t.x_rows = a.x_height, t.x_width = a.x_width, t.x_row = a.x_row, t.top = a.pad_top, t.left = a.pad_left;
      t.rows = a.height, t.width = a.width, t.y_row = a.y_row, t.room = a.room;
      depthwise_plane<K, S>(t, clamp);
      if (!clamp.exact) activate_rows(t, static_cast<Activation>(a.activation), a.act_a, a.act_b);
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
