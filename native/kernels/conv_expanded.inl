// A 1x1 convolution and the depthwise one that alone reads it, without the tensor between them.
//
// Both have channels in lanes. Unit: V vectors of channels of some rows of the output. Loops: band of rows of the output >
// P pixels of the rows of the input that it needs and that are not there yet > input channel > pixel > vector: the 1x1, as
// in conv_lanes.inl, into a ring of rows in scratch, with zeros beside them. Then vector > row > N outputs > tap, which
// reads whole vectors wherever the stride takes it. Results are turned around in the end and written as planes.

// V vectors of channels from `first` on, rows `row` up to row + rows of the output.
struct ExpandedUnit {
  int32_t first, vectors, row, rows;
};

struct ExpandTile {
  const float *x, *weight, *bias, *ahead;
  float* ring;
  const int32_t *pixels, *places;
  int64_t inputs, x_channel, ahead_step;
};

template <int V, int P>
void expand_tile(const ExpandTile& t, const Clamp& bounds) {
  const Clamp clamp = bounds;
  Vec acc[P][V];
  each<V>(DOVETAIL_LAMBDA(int v) {
    const Vec bias = load(t.bias + v * kLanes);
    each<P>(DOVETAIL_LAMBDA(int p) { acc[p][v] = bias; });
  });
  int64_t at[P];
  each<P>(DOVETAIL_LAMBDA(int p) { at[p] = t.pixels[p]; });
  const float *x = t.x, *w = t.weight, *ahead = t.ahead;
  for (const float* end = w + t.inputs * V * kLanes; w != end; x += t.x_channel, w += V * kLanes, ahead += t.ahead_step) {
    __builtin_prefetch(ahead, 0, 2);
    if constexpr (V * kLanes > 16) __builtin_prefetch(ahead + 16, 0, 2);
    Vec weights[V];
    each<V>(DOVETAIL_LAMBDA(int v) { weights[v] = load(w + v * kLanes); });
    each<P>(DOVETAIL_LAMBDA(int p) {
      const Vec pixel = splat(x[at[p]]);
      each<V>(DOVETAIL_LAMBDA(int v) { acc[p][v] = fma(weights[v], pixel, acc[p][v]); });
    });
  }
  each<P>(DOVETAIL_LAMBDA(int p) {
    float* y = t.ring + int64_t{t.places[p]} * V * kLanes;
    each<V>(DOVETAIL_LAMBDA(int v) { store(y + v * kLanes, bounded(acc[p][v], clamp)); });
  });
}

using ExpandFunction = void (*)(const ExpandTile&, const Clamp&);

template <int V>
ExpandFunction expand_tile_of(int pixels) {
  constexpr int most = lane_pixels(V);
  switch (pixels) {
#define DOVETAIL_CASE(P) case P: return expand_tile<V, (P <= most ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4)
    DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7) DOVETAIL_CASE(8)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

inline ExpandFunction expand_tile_for(int vectors, int pixels) {
  switch (vectors) {
    case 1: return expand_tile_of<1>(pixels);
    case 2: return expand_tile_of<2>(pixels);
    case 3: return expand_tile_of<kLaneVectors < 3 ? 1 : 3>(pixels);
    default: return expand_tile_of<kLaneVectors < 4 ? 1 : 4>(pixels);
  }
}

// One vector of channels of a row.
template <int K>
struct LaneRow {
  const float* rows[K];  // under the rows of taps, from the first output's first tap on; null above and below the input
  float* y;
  int64_t step;  // from pixel to pixel of the rows
};

// The next N outputs.
template <int K, int S, int N>
__attribute__((always_inline)) inline void depthwise_lanes(LaneRow<K>& t, const Vec (&weights)[K * K], Vec bias, const Clamp& clamp) {
  Vec acc[N];
  each<N>(DOVETAIL_LAMBDA(int n) { acc[n] = bias; });
  each<K>(DOVETAIL_LAMBDA(int r) {
    const float* x = t.rows[r];
    if (!x) return;
    each<(N - 1) * S + K>(DOVETAIL_LAMBDA(int i) {
      const Vec pixel = in_register(load(x + i * t.step));
      each<K>(DOVETAIL_LAMBDA(int s) {
        const int n = (i - s) / S;
        if (i >= s && (i - s) % S == 0 && n < N) acc[n] = fma(weights[r * K + s], pixel, acc[n]);
      });
    });
    t.rows[r] = x + N * S * t.step;
  });
  each<N>(DOVETAIL_LAMBDA(int n) { store(t.y + n * kLanes, bounded(acc[n], clamp)); });
  t.y += N * kLanes;
}

// All outputs of some rows; rows_of(row, t) points t at those under each.
template <int K, int S, class RowsOf>
inline void depthwise_lane_rows(const float* weight, const float* biases, const Clamp& bounds, int64_t rows, int64_t width, LaneRow<K> t, const RowsOf& rows_of) {
  const Clamp clamp = bounds;
  const Vec bias = load(biases);
  Vec weights[K * K];
  each<K * K>(DOVETAIL_LAMBDA(int i) { weights[i] = load(weight + i * kLanes); });
  for (int64_t row = 0; row < rows; ++row) {
    rows_of(row, t);
    int64_t left = width;
    for (; left >= 8; left -= 8) depthwise_lanes<K, S, 8>(t, weights, bias, clamp);
    switch (left) {
#define DOVETAIL_CASE(N) case N: depthwise_lanes<K, S, N>(t, weights, bias, clamp); break;
      DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
#undef DOVETAIL_CASE
    }
  }
}

// A vector of channels, pixel by pixel, into the planes of so many channels, `row` apart.
inline void turn_into_planes(const float* results, int64_t rows, int64_t width, float* y, int64_t row, int64_t channel, int channels) {
  if (row == width) width *= rows, rows = 1;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t at = 0; at < width; at += kLanes) {
      Vec block[kLanes];
      each<kLanes>(DOVETAIL_LAMBDA(int i) { block[i] = load(results + (r * width + at + i) * kLanes); });
      transpose(block);
      float* to = y + r * row + at;
      if (width - at >= kLanes && channels == kLanes) {
        each<kLanes>(DOVETAIL_LAMBDA(int i) { store(to + i * channel, block[i]); });
      } else {
        for (int i = 0; i < channels; ++i) put(to + i * channel, block[i], width - at < kLanes ? static_cast<int>(width - at) : kLanes);
      }
    }
}

struct Expanded {
  const ConvExpandedArgs& a;
  Clamp first, second;  // of the 1x1 and of the depthwise convolution
  float *ring, *results;

  // Rows [from, to) of the input into the ring.
  void expand(const ExpandedUnit& u, int64_t image, int64_t from, int64_t to) const {
    const int64_t outputs = u.vectors * kLanes, block = a.inputs * outputs, pixels = (to - from) * a.x_width;
    const int most = lane_pixels(u.vectors);
    ExpandTile t;
    t.x = a.x + image * a.x_image, t.weight = a.expand + u.first * kLanes * a.inputs, t.bias = a.expand_bias + u.first * kLanes;
    t.ring = ring, t.inputs = a.inputs, t.x_channel = a.x_channel;
    t.ahead = t.weight + block, t.ahead_step = outputs / ((pixels + most - 1) / most);
    even_pieces(static_cast<int>(pixels), most, [&](int at, int count) {
      t.pixels = a.pixels + from * a.x_width + at, t.places = a.places + from * a.x_width + at;
      expand_tile_for(u.vectors, count)(t, first);
      t.ahead += a.inputs * t.ahead_step;
      if (!first.exact)
        for (int p = 0; p < count; ++p) activate_lanes(ring + t.places[p] * outputs, outputs, a.expand_activation, a.expand_a, a.expand_b);
    });
  }

  static void activate_lanes(float* y, int64_t n, int64_t kind, float low, float high) {
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, activate(load(y + i), static_cast<Activation>(kind), low, high));
  }

  // Rows [from, to) of the output of a vector of channels.
  template <int K, int S>
  void depthwise(const ExpandedUnit& u, int vector, int64_t from, int64_t to) const {
    const int64_t step = u.vectors * kLanes, row_step = a.ring_row * step, lanes = (u.first + vector) * kLanes;
    LaneRow<K> t;
    t.y = results, t.step = step;
    depthwise_lane_rows<K, S>(a.weight + lanes * K * K, a.bias + lanes, second, to - from, a.width, t, [&](int64_t row, LaneRow<K>& t) {
      for (int k = 0; k < K; ++k) {
        const int64_t under = (from + row) * S - a.pad_top + k;
        t.rows[k] = under < 0 || under >= a.x_height ? nullptr : ring + under % a.ring_rows * row_step + vector * kLanes;
      }
    });
    if (!second.exact) activate_lanes(results, (to - from) * a.width * kLanes, a.activation, a.act_a, a.act_b);
  }

  // The same rows to the planes, and the zeros between and around them.
  void write(const ExpandedUnit& u, int vector, int64_t image, int64_t from, int64_t to) const {
    const int64_t channel = (u.first + vector) * kLanes, left = a.channels - channel;
    const int channels = static_cast<int>(left < kLanes ? left : kLanes);
    float* y = a.y + image * a.y_image + channel * a.y_channel;
    turn_into_planes(results, to - from, a.width, y + from * a.y_row, a.y_row, a.y_channel, channels);
    const int64_t last = (a.height - 1) * a.y_row;
    for (int c = 0; c < channels; ++c, y += a.y_channel) {
      auto* words = reinterpret_cast<int32_t*>(y);
      for (int64_t row = from; row < to && a.width < a.y_row; ++row) fill_words(words + row * a.y_row, a.width, a.y_row, 0);
      if (to == a.height) fill_words(words + last, a.width, a.room - last, 0);
      if (from == 0) zero_lead(y, a.y_channel, a.lead, channel + c + 1 == a.channels);
    }
  }

  template <int K, int S>
  void unit(const ExpandedUnit& u, int64_t image) const {
    for (int64_t row = 0; row < a.ring_rows; ++row) {
      float* zeros = ring + row * a.ring_row * u.vectors * kLanes;
      for (int64_t i = 0; i < a.pad_left * u.vectors; ++i) store(zeros + i * kLanes, splat(0.0f));
      for (int64_t i = (a.pad_left + a.x_width) * u.vectors; i < a.ring_row * u.vectors; ++i) store(zeros + i * kLanes, splat(0.0f));
    }
    const int64_t first_tap = u.row * S - a.pad_top;
    int64_t there = first_tap < 0 ? 0 : first_tap;  // rows of the input above this one have been in the ring
    for (int64_t from = u.row; from < u.row + u.rows; from += a.band) {
      const int64_t to = from + a.band < u.row + u.rows ? from + a.band : u.row + u.rows;
      const int64_t last_tap = (to - 1) * S - a.pad_top + K, needed = last_tap < a.x_height ? last_tap : a.x_height;
      if (there < needed) expand(u, image, there, needed), there = needed;
      for (int vector = 0; vector < u.vectors; ++vector) {
        depthwise<K, S>(u, vector, from, to);
        write(u, vector, image, from, to);
      }
    }
  }
};

void conv2d_expanded_depthwise_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvExpandedArgs*>(arguments);
  const auto* units = reinterpret_cast<const ExpandedUnit*>(a.units);
  const Expanded work{a, clamp_of(a.expand_activation, a.expand_a, a.expand_b), clamp_of(a.activation, a.act_a, a.act_b),
                      worker.scratch, worker.scratch + a.results};
  for_units(worker, a.images * a.unit_count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const ExpandedUnit& u = units[i % a.unit_count];
      const int64_t image = i / a.unit_count;
      if (a.side == 3) {
        a.stride == 1 ? work.unit<3, 1>(u, image) : work.unit<3, 2>(u, image);
      } else {
        a.stride == 1 ? work.unit<5, 1>(u, image) : work.unit<5, 2>(u, image);
      }
    }
  });
}
