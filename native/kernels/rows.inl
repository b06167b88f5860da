// Softmax and layer norm over contiguous rows: three passes over a row that stays in L1.

inline float row_max(const float* x, int64_t n) {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

void softmax_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const SoftmaxArgs*>(arguments);
  for_units(worker, a.rows, grain_of(a.rows, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.columns;
      float* y = a.y + row * a.columns;
      const Vec most = splat(row_max(x, a.columns));
      Vec total = splat(0.0f);
      for (int64_t i = 0; i < a.columns; i += kLanes) {
        const int lanes = static_cast<int>(a.columns - i < kLanes ? a.columns - i : kLanes);
        const Vec e = keep(exp(sub(load_some(x + i, lanes), most)), lanes >= kLanes ? 0xFFFFu : (1u << lanes) - 1u);
        total = add(total, e);
        put(y + i, e, lanes);
      }
      const Vec inverse = splat(1.0f / sum(total));
      for (int64_t i = 0; i < a.columns; i += kLanes) {
        const int lanes = static_cast<int>(a.columns - i);
        put(y + i, mul(load_some(y + i, lanes), inverse), lanes);
      }
    }
  });
}

void layer_norm_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const LayerNormArgs*>(arguments);
  for_units(worker, a.rows, grain_of(a.rows, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.columns;
      float* y = a.y + row * a.columns;
      const float n = static_cast<float>(a.columns);
      Vec total = splat(0.0f), squares = splat(0.0f);
      for (int64_t i = 0; i < a.columns; i += kLanes) total = add(total, load_some(x + i, static_cast<int>(a.columns - i)));
      const Vec mean = splat(sum(total) / n);
      for (int64_t i = 0; i < a.columns; i += kLanes) {
        const int lanes = static_cast<int>(a.columns - i);
        const Vec d = keep(sub(load_some(x + i, lanes), mean), lanes >= kLanes ? 0xFFFFu : (1u << lanes) - 1u);
        squares = fma(d, d, squares);
      }
      const Vec inverse = splat(1.0f / __builtin_sqrtf(sum(squares) / n + a.eps));
      for (int64_t i = 0; i < a.columns; i += kLanes) {
        const int lanes = static_cast<int>(a.columns - i);
        Vec v = mul(sub(load_some(x + i, lanes), mean), inverse);
        if (a.weight) v = mul(v, load_some(a.weight + i, lanes));
        if (a.bias) v = add(v, load_some(a.bias + i, lanes));
        put(y + i, v, lanes);
      }
    }
  });
}
