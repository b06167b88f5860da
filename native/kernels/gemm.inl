// y[m, n] = activation(sum_c x[m, c] w[c, n] + bias[n] + residual[m, n])
//
// Output columns in lanes, R rows by 4 vectors in registers; x is broadcast, w is read in order. With one row this is
// bytes over bandwidth; with many rows w is read once per R rows. Units: (batch, block of 4 vectors, block of R rows).

constexpr int kGemmVectors = 4;
constexpr int kGemmRows = kLanes == 16 ? 6 : 2;

struct GemmTile {
  const float *x, *w, *bias, *residual;
  float* y;
  int64_t inner, x_row, w_row, y_row, r_row;
  int columns;  // of this block, at most 4 vectors
};

inline Vec load_some(const float* p, int lanes) { return lanes >= kLanes ? load(p) : lanes <= 0 ? splat(0.0f) : load_first(p, lanes); }

template <int R, bool Whole>
void gemm_tile(const GemmTile& t, const Clamp& clamp, Activation kind, float a, float b) {
  Vec acc[R][kGemmVectors];
  each<kGemmVectors>(DOVETAIL_LAMBDA(int j) {
    const Vec start = t.bias ? load_some(t.bias + j * kLanes, t.columns - j * kLanes) : splat(0.0f);
    each<R>(DOVETAIL_LAMBDA(int r) { acc[r][j] = start; });
  });
  for (int64_t c = 0; c < t.inner; ++c) {
    const float* w = t.w + c * t.w_row;
    Vec v[kGemmVectors];
    each<kGemmVectors>(DOVETAIL_LAMBDA(int j) {
      __builtin_prefetch(w + j * kLanes + kAhead, 0, 2);
      v[j] = Whole ? load(w + j * kLanes) : load_some(w + j * kLanes, t.columns - j * kLanes);
    });
    each<R>(DOVETAIL_LAMBDA(int r) {
      const Vec x = splat(t.x[r * t.x_row + c]);
      each<kGemmVectors>(DOVETAIL_LAMBDA(int j) { acc[r][j] = fma(x, v[j], acc[r][j]); });
    });
  }
  each<R>(DOVETAIL_LAMBDA(int r) {
    each<kGemmVectors>(DOVETAIL_LAMBDA(int j) {
      const int lanes = t.columns - j * kLanes;
      if (lanes <= 0) return;
      Vec v = acc[r][j];
      if (t.residual) v = add(v, load_some(t.residual + r * t.r_row + j * kLanes, lanes));
      v = clamp.exact ? bounded(v, clamp) : activate(v, kind, a, b);
      put(t.y + r * t.y_row + j * kLanes, v, lanes);
    });
  });
}

template <int R>
void gemm_rows(const GemmTile& t, const Clamp& clamp, Activation kind, float a, float b) {
  if (t.columns == kGemmVectors * kLanes) {
    gemm_tile<R, true>(t, clamp, kind, a, b);
  } else {
    gemm_tile<R, false>(t, clamp, kind, a, b);
  }
}

inline void gemm_some_rows(int rows, const GemmTile& t, const Clamp& clamp, Activation kind, float a, float b) {
  switch (rows) {
    case 1: return gemm_rows<1>(t, clamp, kind, a, b);
    case 2: return gemm_rows<2>(t, clamp, kind, a, b);
    case 3: return gemm_rows<kGemmRows < 3 ? 1 : 3>(t, clamp, kind, a, b);
    case 4: return gemm_rows<kGemmRows < 4 ? 1 : 4>(t, clamp, kind, a, b);
    case 5: return gemm_rows<kGemmRows < 5 ? 1 : 5>(t, clamp, kind, a, b);
    default: return gemm_rows<kGemmRows < 6 ? 1 : 6>(t, clamp, kind, a, b);
  }
}

void linear_dense_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const GemmArgs*>(arguments);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const auto kind = static_cast<Activation>(a.activation);
  constexpr int64_t width = kGemmVectors * kLanes;
  const int64_t column_blocks = (a.columns + width - 1) / width, row_blocks = (a.rows + kGemmRows - 1) / kGemmRows;
  const int64_t per_batch = column_blocks * row_blocks, units = a.batch * per_batch;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t batch = unit / per_batch, block = unit % per_batch / row_blocks, rows = unit % row_blocks;
      const int64_t row = rows * kGemmRows, column = block * width;
      GemmTile t;
      t.x = a.x + batch * a.x_batch + row * a.x_row;
      t.w = a.w + batch * a.w_batch + (a.w_block < a.columns ? block * a.w_block_stride : column);
      t.y = a.y + batch * a.y_batch + row * a.y_row + column;
      t.bias = a.bias ? a.bias + column : nullptr;
      t.residual = a.residual ? a.residual + row * a.r_row + column : nullptr;
      t.inner = a.inner, t.x_row = a.x_row, t.w_row = a.w_row, t.y_row = a.y_row, t.r_row = a.r_row;
      t.columns = static_cast<int>(a.columns - column < width ? a.columns - column : width);
      gemm_some_rows(static_cast<int>(a.rows - row < kGemmRows ? a.rows - row : kGemmRows), t, clamp, kind, a.act_a, a.act_b);
    }
  });
}

// One sparse row of weights against one row of x: four running sums of scalars (the gathers would not be faster).
void linear_sparse_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const LinearSparseArgs*>(arguments);
  const auto* entries = static_cast<const Entry*>(a.entries);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t units = a.rows * a.columns;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / a.columns, k = unit % a.columns;
      const float* x = a.x + row * a.x_row;
      const Entry *e = entries + a.starts[k], *last = entries + a.starts[k + 1];
      float sums[4] = {};
      for (; last - e >= 4; e += 4)
        for (int i = 0; i < 4; ++i) sums[i] += e[i].weight * x[e[i].offset];
      for (; e != last; ++e) sums[0] += e->weight * x[e->offset];
      Vec v = splat((sums[0] + sums[1]) + (sums[2] + sums[3]) + (a.bias ? a.bias[k] : 0.0f));
      if (a.residual) v = add(v, splat(a.residual[row * a.r_row + k]));
      v = clamp.exact ? bounded(v, clamp) : activate(v, static_cast<Activation>(a.activation), a.act_a, a.act_b);
      store_first(a.y + row * a.y_row + k, v, 1);
    }
  });
}
