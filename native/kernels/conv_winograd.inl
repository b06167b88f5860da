// Dense convolutions by Winograd's minimal filtering: the 3x3 one of unit stride, M x M outputs from (M + 2)^2 products, and
// wide ones whose columns are a stride of two apart, four outputs of a row from seven products (RowTiles).
//
// A tile is M x M outputs of one channel; a vector holds as many tiles as it has lanes, in four groups of neighbours
// (4 groups x kLanes / 4 tiles), so that tiles are cut out of rows and put back by transposing 4x4 blocks in registers.
// Loops: unit (image, vectors of tiles, block of outputs) > transform the channels that its group reads (once per vectors of
// tiles and group, kept in the thread's scratch) > one small matrix product per place of the tile > transform back. Scratch:
// places x channels x vectors, and places x outputs of a block x vectors; places lie an odd number of lines apart.
// Points: 0, 1, -1, infinity for M = 2; 0, 3/4, -3/4, 3/2, -3/2, infinity for M = 4, and 1/4 after them in rows
// (engine/winograd.py has the matrices).

struct TileGroup {
  int32_t x, y;         // offsets of the first pixel read and written
  int32_t pixels;       // that may be read in each row, where rows are shorter than a group
  int32_t first, last;  // rows to store
  int32_t mask;         // pixels to store in each row
  int32_t gap, rest;    // zeros that follow a row, and the last row
  int32_t end;          // where in the row these begin
};

template <int M>
inline void winograd_in(const Vec (&d)[M + 2], Vec (&t)[M + 2]) {
  if constexpr (M == 2) {
    t[0] = sub(d[0], d[2]);
    t[1] = add(d[1], d[2]);
    t[2] = sub(d[2], d[1]);
    t[3] = sub(d[1], d[3]);
  } else {
    const Vec a = splat(0.75f), b = splat(1.5f), aa = splat(-0.5625f), bb = splat(-2.25f);
    const Vec both = splat(1.265625f), sum = splat(-2.8125f);
    const Vec even_a = fma(bb, d[2], d[4]), odd_a = mul(a, fma(bb, d[1], d[3]));
    const Vec even_b = fma(aa, d[2], d[4]), odd_b = mul(b, fma(aa, d[1], d[3]));
    t[0] = fma(both, d[0], fma(sum, d[2], d[4]));
    t[1] = add(even_a, odd_a);
    t[2] = sub(even_a, odd_a);
    t[3] = add(even_b, odd_b);
    t[4] = sub(even_b, odd_b);
    t[5] = fma(both, d[1], fma(sum, d[3], d[5]));
  }
}

template <int M>
inline void winograd_out(const Vec (&m)[M + 2], Vec (&y)[M]) {
  if constexpr (M == 2) {
    y[0] = add(add(m[0], m[1]), m[2]);
    y[1] = sub(sub(m[1], m[2]), m[3]);
  } else {
    const Vec even_a = add(m[1], m[2]), odd_a = sub(m[1], m[2]), even_b = add(m[3], m[4]), odd_b = sub(m[3], m[4]);
    y[0] = add(add(m[0], even_a), even_b);
    y[1] = fma(splat(0.75f), odd_a, mul(splat(1.5f), odd_b));
    y[2] = fma(splat(0.5625f), even_a, mul(splat(2.25f), even_b));
    y[3] = fma(splat(0.421875f), odd_a, fma(splat(3.375f), odd_b, m[5]));
  }
}

template <bool Narrow>
inline Vec load_pixels_of(const float* p, int n) {
  if constexpr (!Narrow) return load(p);
  return n >= kLanes ? load(p) : n > 0 ? load_first(p, n) : splat(0.0f);
}

template <bool Narrow>
inline Vec load_halves_of(const float* p, int n, const float* q, int m) {
  if constexpr (!Narrow) return load_halves(p, q);
  alignas(64) float lanes[kLanes] = {};
  for (int i = 0; i < kLanes / 2 && i < n; ++i) lanes[i] = p[i];
  for (int i = 0; i < kLanes / 2 && i < m; ++i) lanes[kLanes / 2 + i] = q[i];
  return load(lanes);
}

// Row `row` of a vector of tiles: d[j] holds the j-th pixel of every tile.
template <int M, bool Narrow>
inline void tile_row(const float* x, const TileGroup* g, int64_t row, Vec (&d)[M + 2]) {
  const float* p[4];
  each<4>(DOVETAIL_LAMBDA(int i) { p[i] = x + g[i].x + row; });
  if constexpr (M == 2) {
    const auto pair = DOVETAIL_LAMBDA(int at, Vec& even, Vec& odd) {
      const Vec low = load_halves_of<Narrow>(p[0] + at, g[0].pixels - at, p[1] + at, g[1].pixels - at);
      const Vec high = load_halves_of<Narrow>(p[2] + at, g[2].pixels - at, p[3] + at, g[3].pixels - at);
      even = evens(low, high), odd = odds(low, high);
    };
    pair(0, d[0], d[1]);
    pair(2, d[2], d[3]);
  } else {
    Vec v[4], low[2], high[2];
    each<4>(DOVETAIL_LAMBDA(int i) { v[i] = load_pixels_of<Narrow>(p[i], g[i].pixels); });
    each<2>(DOVETAIL_LAMBDA(int i) { low[i] = zip_low(v[2 * i], v[2 * i + 1]), high[i] = zip_high(v[2 * i], v[2 * i + 1]); });
    d[0] = join_low(low[0], low[1]), d[1] = join_high(low[0], low[1]);
    d[2] = join_low(high[0], high[1]), d[3] = join_high(high[0], high[1]);
    each<4>(DOVETAIL_LAMBDA(int i) { v[i] = load_pixels_of<Narrow>(p[i] + 4, g[i].pixels - 4); });
    each<2>(DOVETAIL_LAMBDA(int i) { low[i] = zip_low(v[2 * i], v[2 * i + 1]); });
    d[4] = join_low(low[0], low[1]), d[5] = join_high(low[0], low[1]);
  }
}

// One channel of one vector of tiles; place (i, j) goes to v + (i * (M + 2) + j) * stride.
template <int M, bool Narrow>
void transform_in(const float* x, int64_t x_row, const TileGroup* g, float* v, int64_t stride) {
  constexpr int N = M + 2;
  alignas(64) float rows[N][N][kLanes];
  each<N>(DOVETAIL_LAMBDA(int i) {
    Vec d[N], t[N];
    tile_row<M, Narrow>(x, g, i * x_row, d);
    winograd_in<M>(d, t);
    each<N>(DOVETAIL_LAMBDA(int j) { store(rows[i][j], t[j]); });
  });
  each<N>(DOVETAIL_LAMBDA(int j) {
    Vec d[N], t[N];
    each<N>(DOVETAIL_LAMBDA(int i) { d[i] = load(rows[i][j]); });
    winograd_in<M>(d, t);
    each<N>(DOVETAIL_LAMBDA(int i) { store(v + (i * N + j) * stride, t[i]); });
  });
}

struct TileOut {
  float* y;
  const float* residual;
  int64_t y_row;
  Vec bias;
  Clamp clamp;
  Activation kind;
  float a, b;
};

template <bool Plain>
inline Vec finish_pixels(const TileOut& o, Vec v) {
  if constexpr (Plain) return bounded(v, o.clamp);
  return o.clamp.exact ? bounded(v, o.clamp) : activate(v, o.kind, o.a, o.b);
}

constexpr uint32_t lanes_of(int tile) { return (tile == 4 ? 1u << (kLanes - 1) : 1u << (kLanes / 2 - 1)) * 2u - 1u; }

inline void put_pixels(float* p, Vec v, uint32_t mask, uint32_t all) {
  if (mask == all) {
    store(p, v);
  } else {
    store_lanes(p, v, mask);
  }
}

// Two groups of half a vector each.
template <bool Whole>
inline void put_halves(const TileOut& o, const TileGroup& p, const TileGroup& q, int row, int64_t at, Vec v) {
  const bool left = Whole || (row >= p.first && row < p.last), right = Whole || (row >= q.first && row < q.last);
  const uint32_t all = lanes_of(2), low = left ? p.mask : 0, high = right ? q.mask : 0;
  if (Whole || (low == all && high == all)) {
    store_halves(o.y + p.y + at, o.y + q.y + at, v);
  } else {
    if (low) store_lanes(o.y + p.y + at, v, low);
    if (high) store_lanes(o.y + q.y + at - kLanes / 2, v, high << kLanes / 2);
  }
}

// A row of four groups of outputs, M pixels of each tile in `y`. Whole: every pixel is stored, and the activation is a clamp.
template <int M, bool Whole>
inline void put_row(const TileOut& o, const TileGroup* g, int row, const Vec (&y)[M]) {
  const int64_t at = row * o.y_row;
  if constexpr (M == 2) {
    const Vec turned[2] = {zip_low(y[0], y[1]), zip_high(y[0], y[1])};
    each<2>(DOVETAIL_LAMBDA(int i) {
      const TileGroup &p = g[2 * i], &q = g[2 * i + 1];
      Vec v = add(turned[i], o.bias);
      if (o.residual) v = add(v, load_halves(o.residual + p.y + at, o.residual + q.y + at));
      put_halves<Whole>(o, p, q, row, at, finish_pixels<Whole>(o, v));
    });
  } else {
    Vec low[2], high[2], turned[4];
    each<2>(DOVETAIL_LAMBDA(int i) { low[i] = zip_low(y[2 * i], y[2 * i + 1]), high[i] = zip_high(y[2 * i], y[2 * i + 1]); });
    turned[0] = join_low(low[0], low[1]), turned[1] = join_high(low[0], low[1]);
    turned[2] = join_low(high[0], high[1]), turned[3] = join_high(high[0], high[1]);
    each<4>(DOVETAIL_LAMBDA(int i) {
      if (!Whole && (row < g[i].first || row >= g[i].last)) return;
      Vec v = add(turned[i], o.bias);
      if (o.residual) v = add(v, load(o.residual + g[i].y + at));
      put_pixels(o.y + g[i].y + at, finish_pixels<Whole>(o, v), Whole ? lanes_of(4) : static_cast<uint32_t>(g[i].mask), lanes_of(4));
    });
  }
}

// One output channel of one vector of tiles, its places `stride` apart.
template <int M, bool Whole>
void transform_out(const float* m, int64_t stride, const TileGroup* g, const TileOut& o) {
  constexpr int N = M + 2;
  alignas(64) float rows[M][N][kLanes];
  each<N>(DOVETAIL_LAMBDA(int j) {
    Vec d[N], y[M];
    each<N>(DOVETAIL_LAMBDA(int i) { d[i] = load(m + (i * N + j) * stride); });
    winograd_out<M>(d, y);
    each<M>(DOVETAIL_LAMBDA(int i) { store(rows[i][j], y[i]); });
  });
  each<M>(DOVETAIL_LAMBDA(int i) {
    Vec d[N], y[M];
    each<N>(DOVETAIL_LAMBDA(int j) { d[j] = load(rows[i][j]); });
    winograd_out<M>(d, y);
    put_row<M, Whole>(o, g, i, y);
  });
}

// Four outputs of a row from up to four taps: the points of M = 4 and one more, so its transforms with a step before them
// (or after), and the products of that point.
constexpr float kSeventh = 0.25f;

inline void transform_row_in(const float* x, const TileGroup* g, float* v, int64_t stride) {
  Vec p[4], low[2], high[2], d[8], e[6], t[6];
  each<2>(DOVETAIL_LAMBDA(int half) {
    each<4>(DOVETAIL_LAMBDA(int i) { p[i] = load(x + g[i].x + 4 * half); });
    each<2>(DOVETAIL_LAMBDA(int i) { low[i] = zip_low(p[2 * i], p[2 * i + 1]), high[i] = zip_high(p[2 * i], p[2 * i + 1]); });
    d[4 * half] = join_low(low[0], low[1]), d[4 * half + 1] = join_high(low[0], low[1]);
    d[4 * half + 2] = join_low(high[0], high[1]), d[4 * half + 3] = join_high(high[0], high[1]);
  });
  const Vec seventh = splat(-kSeventh);
  each<6>(DOVETAIL_LAMBDA(int i) { e[i] = fma(seventh, d[i], d[i + 1]); });
  winograd_in<4>(e, t);
  each<6>(DOVETAIL_LAMBDA(int i) { store(v + i * stride, t[i]); });
  store(v + 6 * stride, fma(splat(1.265625f), d[1], fma(splat(-2.8125f), d[3], d[5])));
}

template <bool Whole>
void transform_row_out(const float* m, int64_t stride, const TileGroup* g, const TileOut& o) {
  Vec d[6], y[4];
  each<6>(DOVETAIL_LAMBDA(int i) { d[i] = load(m + i * stride); });
  winograd_out<4>(d, y);
  Vec last = load(m + 6 * stride);
  y[0] = add(y[0], last);
  each<3>(DOVETAIL_LAMBDA(int i) { y[i + 1] = add(y[i + 1], last = mul(last, splat(kSeventh))); });
  put_row<4, Whole>(o, g, 0, y);
}

// The zeros after the rows that these groups end.
inline void zero_gaps(float* y, int64_t y_row, const TileGroup* g) {
  for (int i = 0; i < 4; ++i) {
    if (!(g[i].gap | g[i].rest)) continue;
    float* end = y + g[i].y + g[i].first * y_row + g[i].end;
    for (int row = g[i].first; row < g[i].last; ++row, end += y_row) {
      const int zeros = row + 1 == g[i].last && g[i].rest ? g[i].rest : g[i].gap;
      for (int z = 0; z < zeros; ++z) end[z] = 0.0f;
    }
  }
}

// Whether a vector of tiles, `rows` by M, stores all its pixels.
template <int M>
inline bool is_whole(const TileGroup* g, int rows) {
  bool whole = true;
  for (int i = 0; i < 4; ++i) whole &= g[i].first == 0 && g[i].last == rows && static_cast<uint32_t>(g[i].mask) == lanes_of(M);
  return whole;
}

// The product of one place: K outputs of T vectors of tiles over all channels.
template <int K, int T>
void winograd_product(const float* v, const float* u, int64_t channels, float* m) {
  Vec acc[K][T];
  each<K>(DOVETAIL_LAMBDA(int k) { each<T>(DOVETAIL_LAMBDA(int t) { acc[k][t] = splat(0.0f); }); });
  for (int64_t c = 0; c < channels; ++c, u += K, v += T * kLanes) {
    __builtin_prefetch(u + kAhead, 0, 2);
    Vec x[T];
    each<T>(DOVETAIL_LAMBDA(int t) { x[t] = load(v + t * kLanes); });
    each<K>(DOVETAIL_LAMBDA(int k) {
      const Vec weight = splat(u[k]);
      each<T>(DOVETAIL_LAMBDA(int t) { acc[k][t] = fma(weight, x[t], acc[k][t]); });
    });
  }
  each<K>(DOVETAIL_LAMBDA(int k) { each<T>(DOVETAIL_LAMBDA(int t) { store(m + (k * T + t) * kLanes, acc[k][t]); }); });
}

using ProductFunction = void (*)(const float*, const float*, int64_t, float*);

// As `most_outputs` in engine/winograd.py: K * T accumulators, T vectors and a weight fit the registers.
inline ProductFunction winograd_product_of(int64_t outputs, int64_t vectors) {
  constexpr bool wide = kLanes == 16;
  if (vectors == 2) {
    return outputs == 4 ? winograd_product<4, 2> : outputs == 8 ? winograd_product<wide ? 8 : 4, 2> : winograd_product<wide ? 12 : 4, 2>;
  }
  switch (outputs) {
    case 4: return winograd_product<4, 1>;
    case 8: return winograd_product<8, 1>;
    case 12: return winograd_product<12, 1>;
    default: return winograd_product<wide ? 16 : 12, 1>;
  }
}

// A kind of tiles: how many places they have, and how an input channel is transformed, and an output back.
template <int M>
struct SquareTiles {
  static constexpr int64_t places = (M + 2) * (M + 2);
  static void in(const ConvWinogradArgs& a, const float* x, const TileGroup* g, float* v, int64_t stride) {
    (a.narrow ? transform_in<M, true> : transform_in<M, false>)(x, a.x_row, g, v, stride);
  }
  static void out(const float* m, int64_t stride, const TileGroup* g, const TileOut& o) {
    (o.clamp.exact && is_whole<M>(g, M) ? transform_out<M, true> : transform_out<M, false>)(m, stride, g, o);
  }
};

struct RowTiles {
  static constexpr int64_t places = 7;
  static void in(const ConvWinogradArgs&, const float* x, const TileGroup* g, float* v, int64_t stride) { transform_row_in(x, g, v, stride); }
  static void out(const float* m, int64_t stride, const TileGroup* g, const TileOut& o) {
    (o.clamp.exact && is_whole<4>(g, 1) ? transform_row_out<true> : transform_row_out<false>)(m, stride, g, o);
  }
};

template <class Tiles>
void winograd(const ConvWinogradArgs& a, Worker& worker) {
  const auto* blocks = reinterpret_cast<const Block*>(a.blocks);
  const auto* groups = reinterpret_cast<const TileGroup*>(a.groups);
  const int64_t vectors = a.vectors, spans = a.group_count / (4 * vectors), per_image = spans * a.block_count;
  const int64_t in_place = a.channels * vectors * kLanes + kLanes;
  float* const made = worker.scratch;
  float* const products = made + Tiles::places * in_place;
  TileOut out;
  out.clamp = clamp_of(a.activation, a.act_a, a.act_b);
  out.kind = static_cast<Activation>(a.activation), out.a = a.act_a, out.b = a.act_b, out.y_row = a.y_row;
  int64_t have = -1, group = -1;
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, span = unit % per_image / a.block_count;
      const TileGroup* g = groups + span * 4 * vectors;
      const Block& block = blocks[unit % a.block_count];
      if (unit / a.block_count != have || block.group != group) {
        have = unit / a.block_count, group = block.group;
        const int32_t* lines = a.lines + group * a.channels;
        for (int64_t c = 0; c < a.channels; ++c)
          for (int64_t t = 0; t < vectors; ++t)
            Tiles::in(a, a.x + image * a.x_image + lines[c], g + 4 * t, made + (c * vectors + t) * kLanes, in_place);
      }
      const int64_t out_place = block.outputs * vectors * kLanes + kLanes;
      const ProductFunction product = winograd_product_of(block.outputs, vectors);
      for (int64_t place = 0; place < Tiles::places; ++place)
        product(made + place * in_place, a.weight + block.weight + place * a.channels * block.outputs, a.channels, products + place * out_place);
      for (int64_t k = 0; k < block.outputs; ++k) {
        const int64_t channel = a.places[block.first + k];
        if (channel < 0) continue;
        out.y = a.y + image * a.y_image + channel * a.y_channel;
        out.residual = a.residual ? a.residual + image * a.r_image + channel * a.r_channel : nullptr;
        out.bias = splat(a.bias ? a.bias[channel] : 0.0f);
        for (int64_t t = 0; t < vectors; ++t) {
          Tiles::out(products + (k * vectors + t) * kLanes, out_place, g + 4 * t, out);
          zero_gaps(out.y, a.y_row, g + 4 * t);
        }
        if (span == 0) zero_lead(out.y, a.y_channel, a.lead, channel + 1 == a.out_channels);
      }
    }
  });
}

void conv2d_winograd_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvWinogradArgs*>(arguments);
  if (a.tile == 0) {
    winograd<RowTiles>(a, worker);
  } else if (a.tile == 2) {
    winograd<SquareTiles<2>>(a, worker);
  } else {
    winograd<SquareTiles<4>>(a, worker);
  }
}
