// The linear layer over codes: as gemm.inl, with words of four inputs; output columns in lanes, x broadcast.

struct GemmCodeTile {
  const int32_t *x, *w, *bias;
  const float* multiplier;
  const void* residual;
  void* y;
  int64_t inner, x_row, y_row, r_row;  // of y and of the residual in elements: codes, or float32 numbers
  int columns;                         // of this block, at most 4 vectors
};

template <int R>
void gemm_code_tile(const GemmCodeTile& t, const Rounding& r) {
  Ints acc[R][kGemmVectors];
  each<kGemmVectors>(DOVETAIL_LAMBDA(int j) {
    const Ints start = load_words(t.bias + j * kLanes);
    each<R>(DOVETAIL_LAMBDA(int row) { acc[row][j] = start; });
  });
  const int32_t* w = t.w;
  for (int64_t c = 0; c < t.inner; ++c, w += kGemmVectors * kLanes) {
    Ints v[kGemmVectors];
    each<kGemmVectors>(DOVETAIL_LAMBDA(int j) { v[j] = load_words(w + j * kLanes); });
    each<R>(DOVETAIL_LAMBDA(int row) {
      const Ints x = splat_word(t.x[row * t.x_row + c]);
      each<kGemmVectors>(DOVETAIL_LAMBDA(int j) { acc[row][j] = dot(acc[row][j], x, v[j]); });
    });
  }
  for (int row = 0; row < R; ++row)
    for (int j = 0; j < kGemmVectors && j * kLanes < t.columns; ++j) {
      const int lanes = t.columns - j * kLanes < kLanes ? t.columns - j * kLanes : kLanes;
      Vec s = mul(to_real(acc[row][j]), load(t.multiplier + j * kLanes));
      if (r.real) {
        if (t.residual) s = add(s, load_some(static_cast<const float*>(t.residual) + row * t.r_row + j * kLanes, lanes));
        s = r.clamp.exact ? bounded(s, r.clamp) : activate(s, r.kind, r.a, r.b);
        put(static_cast<float*>(t.y) + row * t.y_row + j * kLanes, s, lanes);
        continue;
      }
      alignas(64) uint8_t codes[kLanes] = {};
      if (t.residual) {
        __builtin_memcpy(codes, static_cast<const uint8_t*>(t.residual) + row * t.r_row + j * kLanes, lanes);
        s = add(s, mul(to_real(sub(expand_bytes(codes), r.r_zero)), r.ratio));
      }
      pack_bytes(codes, to_code(s, r.low, r.high, r.zero));
      __builtin_memcpy(static_cast<uint8_t*>(t.y) + row * t.y_row + j * kLanes, codes, lanes);
    }
}

inline void gemm_code_rows(int rows, const GemmCodeTile& t, const Rounding& r) {
  switch (rows) {
    case 1: return gemm_code_tile<1>(t, r);
    case 2: return gemm_code_tile<2>(t, r);
    case 3: return gemm_code_tile<kGemmRows < 3 ? 1 : 3>(t, r);
    case 4: return gemm_code_tile<kGemmRows < 4 ? 1 : 4>(t, r);
    case 5: return gemm_code_tile<kGemmRows < 5 ? 1 : 5>(t, r);
    default: return gemm_code_tile<kGemmRows < 6 ? 1 : 6>(t, r);
  }
}

void linear_dense_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const GemmCodesArgs*>(arguments);
  const Rounding rounding = rounding_of(a);
  constexpr int64_t width = kGemmVectors * kLanes;
  const int64_t column_blocks = (a.columns + width - 1) / width, row_blocks = (a.rows + kGemmRows - 1) / kGemmRows;
  const int64_t size = rounding.real ? 4 : 1, units = column_blocks * row_blocks;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / row_blocks, row = unit % row_blocks * kGemmRows, column = block * width;
      GemmCodeTile t;
      t.x = a.x + row * a.x_row;
      t.w = a.w + block * a.inner * width;
      t.bias = a.bias + column, t.multiplier = a.multiplier + column;
      t.y = static_cast<uint8_t*>(a.y) + size * (row * a.y_row + column);
      t.residual = a.residual ? static_cast<const uint8_t*>(a.residual) + size * (row * a.r_image + column) : nullptr;
      t.inner = a.inner, t.x_row = a.x_row, t.y_row = a.y_row, t.r_row = a.r_image;
      t.columns = static_cast<int>(a.columns - column < width ? a.columns - column : width);
      gemm_code_rows(static_cast<int>(a.rows - row < kGemmRows ? a.rows - row : kGemmRows), t, rounding);
    }
  });
}
