// Several dense products between two orders of channels, as a weight of permuted diagonals under a natural index is.
//
// Outputs of a class in lanes, up to 12 vectors of them in registers. One row: the inputs of a class that are not zero become
// a list of (column, number), and each brings its column of weights, which lies in one piece; zeros cost nothing, and where
// there are none the weights are read in order. More rows (their inputs already lie class by class): R rows by 4 vectors, as
// in gemm.inl. Units: (block of outputs, rows), so that a list serves all blocks of a class.
//
// Weights are float32, bytes (widened, their scale follows the sum) or codes of 4 bits into a book of 16 numbers: at one row
// the time is bytes over bandwidth.

struct FloatWeights {
  using Stored = float;
  static constexpr int most = 12, step = 1;  // vectors of a block
  static constexpr int64_t bytes(int64_t numbers) { return 4 * numbers; }
  template <int V>
  void add(const Stored* p, Vec x, Vec (&acc)[V]) const {
    each<V>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(x, load(p + j * kLanes), acc[j]); });
  }
  void four(const Stored* p, Vec (&v)[4]) const {
    each<4>(DOVETAIL_LAMBDA(int j) { v[j] = load(p + j * kLanes); });
  }
};

struct ByteWeights {
  using Stored = int8_t;
  static constexpr int most = 12, step = 1;
  static constexpr int64_t bytes(int64_t numbers) { return numbers; }
  template <int V>
  void add(const Stored* p, Vec x, Vec (&acc)[V]) const {
    each<V>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(x, widen(p + j * kLanes), acc[j]); });
  }
  void four(const Stored* p, Vec (&v)[4]) const {
    each<4>(DOVETAIL_LAMBDA(int j) { v[j] = widen(p + j * kLanes); });
  }
};

struct BookWeights {
  using Stored = uint8_t;
  static constexpr int most = 8, step = 4;
  Book book;
  static constexpr int64_t bytes(int64_t numbers) { return numbers / 2; }
  template <int V>
  void add(const Stored* p, Vec x, Vec (&acc)[V]) const {
    Vec v[4];
    if constexpr (V == 4) {
      four(p, v);
      each<4>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(x, v[j], acc[j]); });
    } else {
      const Ints codes = load_codes(p);
      decode<0>(book, codes, v);
      each<4>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(x, v[j], acc[j]); });
      decode<1>(book, codes, v);
      each<4>(DOVETAIL_LAMBDA(int j) { acc[4 + j] = fma(x, v[j], acc[4 + j]); });
    }
  }
  void four(const Stored* p, Vec (&v)[4]) const { decode<0>(book, load_half_codes(p), v); }
};

struct ClassBlock {
  int32_t group, first, vectors;
};

constexpr int kColumnsAhead = 16;  // what lists have beyond their end: the columns to fetch early

// The inputs of a class that are not zero, and then the first ones once more, as those of the next block.
inline int64_t list_inputs(const float* x, const int32_t* inputs, int64_t inner, Entry* list) {
  int64_t count = 0;
  for (int64_t c = 0; c < inner; ++c) {
    const float value = inputs[c] < 0 ? 0.0f : x[inputs[c]];
    list[count] = {static_cast<int32_t>(c), value};
    count += value != 0.0f;
  }
  for (int i = 0; i < kColumnsAhead; ++i)
    list[count + i] = {static_cast<int32_t>(inner + (i < count ? list[i].offset : 0)), 0.0f};
  return count;
}

template <class W, int V>
void class_row(const W& weights, const typename W::Stored* w, const Entry* list, int64_t count, float* sums) {
  constexpr int64_t bytes = W::bytes(V * kLanes), step = bytes / static_cast<int64_t>(sizeof *w);
  Vec acc[V];
  each<V>(DOVETAIL_LAMBDA(int j) { acc[j] = splat(0.0f); });
  for (const Entry *e = list, *end = list + count; e != end; ++e) {
    const auto* later = reinterpret_cast<const char*>(w) + bytes * e[kColumnsAhead].offset;
    each<(bytes + 63) / 64>(DOVETAIL_LAMBDA(int line) { __builtin_prefetch(later + 64 * line, 0, 2); });
    weights.template add<V>(w + step * e->offset, splat(e->weight), acc);
  }
  each<V>(DOVETAIL_LAMBDA(int j) { store(sums + j * kLanes, acc[j]); });
}

template <class W, int V = W::most>
void some_class_row(int vectors, const W& weights, const typename W::Stored* w, const Entry* list, int64_t count, float* sums) {
  if (vectors == V) return class_row<W, V>(weights, w, list, count, sums);
  if constexpr (V > W::step) some_class_row<W, V - W::step>(vectors, weights, w, list, count, sums);
}

// Four vectors of outputs for R rows; the sums of a row lie 4 vectors apart.
template <class W, int R>
void class_rows(const W& weights, const typename W::Stored* w, const float* x, int64_t x_row, int64_t inner, float* sums) {
  constexpr int64_t step = W::bytes(4 * kLanes) / static_cast<int64_t>(sizeof *w);
  Vec acc[R][4];
  each<R>(DOVETAIL_LAMBDA(int r) { each<4>(DOVETAIL_LAMBDA(int j) { acc[r][j] = splat(0.0f); }); });
  for (int64_t c = 0; c < inner; ++c) {
    Vec v[4];
    weights.four(w + c * step, v);
    each<R>(DOVETAIL_LAMBDA(int r) {
      const Vec number = splat(x[r * x_row + c]);
      each<4>(DOVETAIL_LAMBDA(int j) { acc[r][j] = fma(number, v[j], acc[r][j]); });
    });
  }
  each<R>(DOVETAIL_LAMBDA(int r) { each<4>(DOVETAIL_LAMBDA(int j) { store(sums + (4 * r + j) * kLanes, acc[r][j]); }); });
}

template <class W>
void some_class_rows(int rows, const W& weights, const typename W::Stored* w, const float* x, int64_t x_row, int64_t inner, float* sums) {
  switch (rows) {
    case 1: return class_rows<W, 1>(weights, w, x, x_row, inner, sums);
    case 2: return class_rows<W, 2>(weights, w, x, x_row, inner, sums);
    case 3: return class_rows<W, kGemmRows < 3 ? 1 : 3>(weights, w, x, x_row, inner, sums);
    case 4: return class_rows<W, kGemmRows < 4 ? 1 : 4>(weights, w, x, x_row, inner, sums);
    case 5: return class_rows<W, kGemmRows < 5 ? 1 : 5>(weights, w, x, x_row, inner, sums);
    default: return class_rows<W, kGemmRows < 6 ? 1 : 6>(weights, w, x, x_row, inner, sums);
  }
}

// Scale, bias, residual and activation of vectors of sums in one row, and out to the places of their lanes.
template <class Args>
void finish_places(const Args& a, const float* scale, const Clamp& clamp, int64_t first, int vectors, int64_t row, float* sums) {
  for (int j = 0; j < vectors; ++j, sums += kLanes) {
    const int64_t at = (first + j) * kLanes;
    const int32_t* places = a.places + at;
    Vec v = load(sums);
    if (scale) v = mul(v, load(scale + at));
    if (a.bias) v = add(v, load(a.bias + at));
    if (a.residual) {
      alignas(64) float other[kLanes];
      for (int i = 0; i < kLanes; ++i) other[i] = places[i] < 0 ? 0.0f : a.residual[row * a.r_row + places[i]];
      v = add(v, load(other));
    }
    store(sums, clamp.exact ? bounded(v, clamp) : activate(v, static_cast<Activation>(a.activation), a.act_a, a.act_b));
    for (int i = 0; i < kLanes; ++i)
      if (places[i] >= 0) a.y[row * a.y_row + places[i]] = sums[i];
  }
}

// `weights_of` gives the weights; it may read a book, and is called by threads that have work only.
template <class W, class Args, class WeightsOf>
void linear_classes(const Args& a, Worker& worker, const WeightsOf& weights_of) {
  const auto* blocks = reinterpret_cast<const ClassBlock*>(a.blocks);
  const auto* all = static_cast<const typename W::Stored*>(a.w);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const bool lists = a.inputs != nullptr;
  const int64_t most = lists ? 1 : kGemmRows, row_blocks = (a.rows + most - 1) / most, units = a.block_count * row_blocks;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    const W weights = weights_of();
    auto* list = reinterpret_cast<Entry*>(worker.scratch);
    int64_t listed = -1, count = 0;
    for (int64_t unit = begin; unit < end; ++unit) {
      const ClassBlock& block = blocks[unit / row_blocks];
      const int64_t row = unit % row_blocks * most;
      const int rows = static_cast<int>(a.rows - row < most ? a.rows - row : most);
      const auto* w = all + W::bytes(block.first * a.inner * kLanes) / static_cast<int64_t>(sizeof *all);
      alignas(64) float sums[(kGemmRows > 3 ? 4 * kGemmRows : W::most) * kLanes];
      if (lists) {
        if (listed != block.group) count = list_inputs(a.x, a.inputs + block.group * a.inner, a.inner, list);
        listed = block.group;
        some_class_row<W>(block.vectors, weights, w, list, count, sums);
      } else {
        some_class_rows<W>(rows, weights, w, a.x + row * a.x_row + block.group * a.inner, a.x_row, a.inner, sums);
      }
      for (int r = 0; r < rows; ++r) finish_places(a, a.scale, clamp, block.first, block.vectors, row + r, sums + r * 4 * kLanes);
    }
  });
}

void linear_classes_f32(const void* arguments, Worker& worker) {
  linear_classes<FloatWeights>(*static_cast<const LinearClassesArgs*>(arguments), worker, [] { return FloatWeights{}; });
}

void linear_classes_bytes_f32(const void* arguments, Worker& worker) {
  linear_classes<ByteWeights>(*static_cast<const LinearClassesBytesArgs*>(arguments), worker, [] { return ByteWeights{}; });
}

void linear_classes_book_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const LinearClassesBookArgs*>(arguments);
  linear_classes<BookWeights>(a, worker, [&] { return BookWeights{book_of(a.book)}; });
}

void take_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const TakeArgs*>(arguments);
  for_units(worker, a.rows, grain_of(a.rows, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < a.columns; ++i) a.y[row * a.y_row + i] = a.from[i] < 0 ? 0.0f : a.x[row * a.x_row + a.from[i]];
  });
}
