// The same over codes: as conv_sparse_columns.inl, with words of four channels and of four weights.

struct CodeColumns {
  using Element = int32_t;
  using Lanes = Ints;
  using Item = CodeEntry;
  static constexpr bool real = false;
  static constexpr int together = 4;
  static Ints weight(const CodeEntry& e) { return splat_word(e.word); }
  static Ints all(int32_t x) { return splat_word(x); }
  static Ints load_lanes(const int32_t* p) { return load_words(p); }
  static void store_lanes(int32_t* p, Ints v) { store_words(p, v); }
  static Ints product(Ints sum, Ints codes, Ints weights) { return dot(sum, codes, weights); }
  static Ints turned(Ints v, Ints from, uint32_t bits) { return keep(pick_lanes(v, from), bits, splat_word(0)); }
};

// Four outputs whose sums lie row by row in whole vectors, `step` from one output to the next; the place is that of the first run.
inline void finish_rows(const int32_t* sums, int64_t step, const CodePlace& place, const Run* runs, int64_t count, const uint32_t* masks) {
  const Rounding r = *place.rounding;  // a copy, as in finish_spread
  const Vec multipliers[4] = {splat(place.multiplier[0]), splat(place.multiplier[1]), splat(place.multiplier[2]), splat(place.multiplier[3])};
  const Ints halo = splat_word(r.halo);
  auto* const to = static_cast<int32_t*>(place.y) - runs->y;
  const auto* const residual = place.residual ? static_cast<const int32_t*>(place.residual) - runs->y : nullptr;
  for (const Run* run = runs; run != runs + count; ++run) {
    const int32_t* from = sums + run->x;
    const uint32_t* mask = masks + run->mask;
    for (int at = run->y, left = run->pixels; left > 0; at += kLanes, left -= kLanes, from += kLanes, ++mask) {
      Ints word = halo;  // of what lies behind a row that fills its vectors
      if (*mask) {
        Ints four[4];
        each<4>(DOVETAIL_LAMBDA(int i) { four[i] = load_words(from + i * step); });
        word = keep(code_words(four, multipliers, r, residual, residual ? load_words(residual + at) : halo), *mask, halo);
      }
      put_words(to + at, word, left);
    }
  }
}

// Ends four outputs, from `k`, of a tile; their sums lie `step` apart, and a run's x offset is that of its sums.
template <class Args>
inline void finish_code_tile(const Args& a, const Rounding& rounding, int64_t image, int64_t k, const Run* begin, int64_t runs, bool leads, const int32_t* sums, int64_t step, const Spread& spread) {
  if (!rounding.real) {
    const CodePlace place = place_of(a, rounding, image, k, 4, *begin);
    if (spread.fits) finish_spread(sums, step, place, spread);
    else finish_rows(sums, step, place, begin, runs, a.masks);
    end_place(a, place, *begin, image, k, 4, leads);
    return;
  }
  for (const Run* run = begin; run != begin + runs; ++run) {
    const CodePlace place = place_of(a, rounding, image, k, 4, *run);
    for (int j = 0; j < vectors_of(*run); ++j) {
      Ints four[4][1];
      each<4>(DOVETAIL_LAMBDA(int i) { four[i][0] = load_words(sums + i * step + run->x + j * kLanes); });
      finish_four<1>(four, 0, place, j);
    }
    end_place(a, place, *run, image, k, 4, leads && run == begin);
  }
}

void conv2d_sparse_columns_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvColumnsCodesArgs*>(arguments);
  const Rounding rounding = rounding_of(a);
  for_column_units<CodeColumns>(a, worker, RowEnd(), [&](int64_t image, const ColumnTile& tile, int64_t first, const ColumnBlock<CodeColumns>& t) {
    const Run* const begin = runs_of(a.runs) + tile.first_run;
    const Spread spread(begin, tile.runs, a.masks, kLanes / a.line_rows);
    for (int64_t k = 0; k < t.outputs; k += 4)
      finish_code_tile(a, rounding, image, first + k, begin, tile.runs, tile.first_run == 0, t.sums + k * t.sums_step, t.sums_step, spread);
  });
}
