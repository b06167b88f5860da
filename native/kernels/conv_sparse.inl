// y[o, p] = clamp(sum over the non-zeros (offset, w) of o of w x[p + offset] + bias[o] + residual[o, p])
//
// Pixels in lanes, up to 12 vectors of one output in registers: every entry costs one load per multiply-add, so long
// runs matter (the entry itself is read once per run). Loops: unit (image, run, output) > piece > entry > vector.

struct SparseRow {
  const float *x, *residual;
  float* y;
  const Entry *begin, *end;
  const uint32_t* masks;
  float bias;
  int64_t row = 0;  // of y, where a vector is two rows (conv_basis.inl)
  int64_t chains;
  int first, pixels;
};

// As `finish`, for vectors of two rows; each row is followed by the zeros of its halo.
template <int P>
__attribute__((always_inline)) inline void finish_rows(const Vec (&acc)[P], const Clamp& clamp, const float* residual, float* y, int64_t row, int first) {
  each<P>(DOVETAIL_LAMBDA(int j) {
    const int64_t at = 2 * (first + j) * row;
    Vec v = acc[j];
    if (residual) v = add(v, load_halves(residual + at, residual + at + row));
    store_halves(y + at, y + at + row, bounded(v, clamp));
    for (int64_t i = kLanes / 2; i < row; ++i) y[at + i] = y[at + row + i] = 0.0f;
  });
}

// P vectors in U chains: entry i adds to chain i % U, so that short runs do not wait for one addition after another. How
// many chains there are is the layer's business (not the run's): sums do not depend on how the work is cut.
template <int P, int U>
void sparse_tile(const SparseRow& t, const Clamp& clamp) {
  Vec acc[U][P];
  each<U>(DOVETAIL_LAMBDA(int u) { each<P>(DOVETAIL_LAMBDA(int j) { acc[u][j] = splat(u ? 0.0f : t.bias); }); });
  const float* x = t.x + t.first * kLanes;
  const auto take = DOVETAIL_LAMBDA(const Entry& e, Vec (&sums)[P]) {
    const float* p = x + e.offset;
    const Vec w = splat(e.weight);
    each<P>(DOVETAIL_LAMBDA(int j) { sums[j] = fma(w, load(p + j * kLanes), sums[j]); });
  };
  const Entry* e = t.begin;
  for (; t.end - e >= U; e += U) each<U>(DOVETAIL_LAMBDA(int u) { take(e[u], acc[u]); });
  if constexpr (U > 1) {
    each<U - 1>(DOVETAIL_LAMBDA(int u) { if (u < t.end - e) take(e[u], acc[u]); });
    each<P>(DOVETAIL_LAMBDA(int j) {
      if constexpr (U == 4) {
        acc[0][j] = add(add(acc[0][j], acc[1][j]), add(acc[2][j], acc[3][j]));
      } else {
        acc[0][j] = add(acc[0][j], acc[1][j]);
      }
    });
  }
  if (t.row) {
    finish_rows<P>(acc[0], clamp, t.residual, t.y, t.row, t.first);
  } else {
    finish<P>(acc[0], clamp, t.residual, t.y, t.masks, t.first, t.pixels);
  }
}

using SparseFunction = void (*)(const SparseRow&, const Clamp&);

// As `_chains` in engine/conv.py: four chains of up to 4 vectors, two of up to 8, or one of up to 12.
inline SparseFunction sparse_tile_for(int64_t chains, int vectors) {
  static const SparseFunction four[] = {nullptr, sparse_tile<1, 4>, sparse_tile<2, 4>, sparse_tile<3, 4>, sparse_tile<4, 4>};
  static const SparseFunction two[] = {
      nullptr,           sparse_tile<1, 2>, sparse_tile<2, 2>, sparse_tile<3, 2>, sparse_tile<4, 2>,
      sparse_tile<5, 2>, sparse_tile<6, 2>, sparse_tile<7, 2>, sparse_tile<8, 2>};
  static const SparseFunction one[] = {
      nullptr,           sparse_tile<1, 1>, sparse_tile<2, 1>, sparse_tile<3, 1>,  sparse_tile<4, 1>,  sparse_tile<5, 1>, sparse_tile<6, 1>,
      sparse_tile<7, 1>, sparse_tile<8, 1>, sparse_tile<9, 1>, sparse_tile<10, 1>, sparse_tile<11, 1>, sparse_tile<12, 1>};
  return (chains == 4 ? four : chains == 2 ? two : one)[vectors];
}

inline void sparse_run(SparseRow& t, const Run& run, const Clamp& clamp, int64_t activation, float a, float b) {
  t.pixels = run.pixels;
  even_pieces(vectors_of(run), kMostVectors, [&](int first, int count) {
    t.first = first;
    sparse_tile_for(t.chains, count)(t, clamp);
  });
  if (!clamp.exact) activate_run(t.y, run, t.masks, static_cast<Activation>(activation), a, b);
}

void conv2d_sparse_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvSparseArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const auto* entries = static_cast<const Entry*>(a.entries);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t per_image = a.out_channels * a.run_count, units = a.images * per_image;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, rest = unit % per_image;
      const int64_t k = a.blocks_outer ? rest / a.run_count : rest % a.out_channels;
      const int64_t r = a.blocks_outer ? rest % a.run_count : rest / a.out_channels;
      const Run& run = runs[r];
      float* plane = a.y + image * a.y_image + k * a.y_channel;
      SparseRow t;
      t.x = a.x + image * a.x_image + run.x;
      t.y = plane + run.y;
      t.residual = a.residual ? a.residual + image * a.r_image + k * a.r_channel + run.y : nullptr;
      t.begin = entries + a.starts[k], t.end = entries + a.starts[k + 1];
      t.masks = a.masks + run.mask;
      t.bias = a.bias ? a.bias[k] : 0.0f;
      t.chains = a.chains;
      sparse_run(t, run, clamp, a.activation, a.act_a, a.act_b);
      if (r == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
    }
  });
}
