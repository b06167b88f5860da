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

template <int P>
void sparse_tile(const SparseRow& t, const Clamp& clamp) {
  Vec acc[P];
  each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = splat(t.bias); });
  const float* x = t.x + t.first * kLanes;
  for (const Entry* e = t.begin; e != t.end; ++e) {
    const float* p = x + e->offset;
    const Vec w = splat(e->weight);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(w, load(p + j * kLanes), acc[j]); });
  }
  if (t.row) {
    finish_rows<P>(acc, clamp, t.residual, t.y, t.row, t.first);
  } else {
    finish<P>(acc, clamp, t.residual, t.y, t.masks, t.first, t.pixels);
  }
}

using SparseFunction = void (*)(const SparseRow&, const Clamp&);

inline SparseFunction sparse_tile_for(int vectors) {
  static const SparseFunction functions[] = {
      nullptr,        sparse_tile<1>, sparse_tile<2>, sparse_tile<3>,  sparse_tile<4>,  sparse_tile<5>, sparse_tile<6>,
      sparse_tile<7>, sparse_tile<8>, sparse_tile<9>, sparse_tile<10>, sparse_tile<11>, sparse_tile<12>};
  return functions[vectors];
}

inline void sparse_run(SparseRow& t, const Run& run, const Clamp& clamp, int64_t activation, float a, float b) {
  t.pixels = run.pixels;
  even_pieces(vectors_of(run), kMostVectors, [&](int first, int count) {
    t.first = first;
    sparse_tile_for(count)(t, clamp);
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
      sparse_run(t, run, clamp, a.activation, a.act_a, a.act_b);
      if (r == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
    }
  });
}
