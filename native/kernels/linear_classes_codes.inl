// Over codes, as linear_classes.inl: the codes of a class are gathered into words of four, then R rows by 4 vectors of outputs
// in registers, a dot product for every word. Units: (rows, block of outputs), so that what is gathered serves all blocks.

template <int R>
void class_code_rows(const int32_t* w, const int32_t* x, int64_t inner, int32_t* sums) {
  Ints acc[R][4];
  each<R>(DOVETAIL_LAMBDA(int r) { each<4>(DOVETAIL_LAMBDA(int j) { acc[r][j] = splat_word(0); }); });
  for (int64_t c = 0; c < inner; ++c, w += 4 * kLanes) {
    Ints v[4];
    each<4>(DOVETAIL_LAMBDA(int j) {
      __builtin_prefetch(w + j * kLanes + kAhead, 0, 2);
      v[j] = load_words(w + j * kLanes);
    });
    each<R>(DOVETAIL_LAMBDA(int r) {
      const Ints codes = splat_word(x[r * inner + c]);
      each<4>(DOVETAIL_LAMBDA(int j) { acc[r][j] = dot(acc[r][j], codes, v[j]); });
    });
  }
  each<R>(DOVETAIL_LAMBDA(int r) { each<4>(DOVETAIL_LAMBDA(int j) { store_words(sums + (4 * r + j) * kLanes, acc[r][j]); }); });
}

inline void some_class_code_rows(int rows, const int32_t* w, const int32_t* x, int64_t inner, int32_t* sums) {
  switch (rows) {
    case 1: return class_code_rows<1>(w, x, inner, sums);
    case 2: return class_code_rows<2>(w, x, inner, sums);
    case 3: return class_code_rows<kGemmRows < 3 ? 1 : 3>(w, x, inner, sums);
    case 4: return class_code_rows<kGemmRows < 4 ? 1 : 4>(w, x, inner, sums);
    case 5: return class_code_rows<kGemmRows < 5 ? 1 : 5>(w, x, inner, sums);
    default: return class_code_rows<kGemmRows < 6 ? 1 : 6>(w, x, inner, sums);
  }
}

// A vector of sums of one row, rounded, and out to the places of its lanes; `at` is its first lane's turn among them.
inline void finish_code_places(const LinearClassesCodesArgs& a, const Rounding& r, int64_t at, int64_t row, const int32_t* sums) {
  const int32_t* places = a.places + at;
  Vec s = mul(to_real(add(load_words(sums), load_words(a.bias + at))), load(a.multiplier + at));
  if (r.real) {
    alignas(64) float numbers[kLanes] = {};
    const auto* residual = static_cast<const float*>(a.residual) + (a.residual ? row * a.r_image : 0);
    for (int i = 0; a.residual && i < kLanes; ++i) numbers[i] = places[i] < 0 ? 0.0f : residual[places[i]];
    s = add(s, load(numbers));
    store(numbers, r.clamp.exact ? bounded(s, r.clamp) : activate(s, r.kind, r.a, r.b));
    for (int i = 0; i < kLanes; ++i)
      if (places[i] >= 0) static_cast<float*>(a.y)[row * a.y_row + places[i]] = numbers[i];
    return;
  }
  alignas(64) uint8_t codes[kLanes] = {};
  if (a.residual) {
    const auto* residual = static_cast<const uint8_t*>(a.residual) + row * a.r_image;
    for (int i = 0; i < kLanes; ++i) codes[i] = places[i] < 0 ? 0 : residual[places[i]];
    s = add(s, mul(to_real(sub(expand_bytes(codes), r.r_zero)), r.ratio));
  }
  pack_bytes(codes, to_code(s, r.low, r.high, r.zero));
  for (int i = 0; i < kLanes; ++i)
    if (places[i] >= 0) static_cast<uint8_t*>(a.y)[row * a.y_row + places[i]] = codes[i];
}

void linear_classes_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const LinearClassesCodesArgs*>(arguments);
  const auto* blocks = reinterpret_cast<const ClassBlock*>(a.blocks);
  const Rounding rounding = rounding_of(a);
  const int64_t units = a.block_count * ((a.rows + kGemmRows - 1) / kGemmRows);
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    auto* words = reinterpret_cast<int32_t*>(worker.scratch);
    auto* codes = reinterpret_cast<uint8_t*>(worker.scratch);
    int64_t gathered = -1;  // row and class
    for (int64_t unit = begin; unit < end; ++unit) {
      const ClassBlock& block = blocks[unit % a.block_count];
      const int64_t row = unit / a.block_count * kGemmRows, what = row * a.block_count + block.group;
      const int rows = static_cast<int>(a.rows - row < kGemmRows ? a.rows - row : kGemmRows);
      for (int r = 0; gathered != what && r < rows; ++r) {
        const int32_t* from = a.inputs + block.group * a.inner * 4;
        const auto* x = reinterpret_cast<const uint8_t*>(a.x + (row + r) * a.x_row);
        for (int64_t c = 0; c < 4 * a.inner; ++c) codes[4 * r * a.inner + c] = from[c] < 0 ? 0 : x[from[c]];
      }
      gathered = what;
      alignas(64) int32_t sums[4 * kGemmRows * kLanes];
      some_class_code_rows(rows, a.w + block.first * a.inner * kLanes, words, a.inner, sums);
      for (int r = 0; r < rows; ++r)
        for (int j = 0; j < 4; ++j)
          finish_code_places(a, rounding, (block.first + j) * int64_t{kLanes}, row + r, sums + (4 * r + j) * kLanes);
    }
  });
}
