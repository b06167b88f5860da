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

void conv2d_sparse_columns_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvColumnsCodesArgs*>(arguments);
  const Rounding rounding = rounding_of(a);
  for_column_units<CodeColumns>(a, worker, RowEnd(), [&](int64_t image, const ColumnTile& tile, int64_t first, const ColumnBlock<CodeColumns>& t) {
    const Run* const begin = runs_of(a.runs) + tile.first_run;
    for (int64_t k = 0; k < t.outputs; k += 4) {
      const int32_t* sums = t.sums + k * t.sums_step;
      if (a.line_rows > 1 && !rounding.real) {
        const CodePlace place = place_of(a, rounding, image, first + k, 4, *begin);
        finish_gapless(sums, t.sums_step, tile.vectors, place, begin, tile.runs, a.masks, t.sums + (t.outputs + 3) / 4 * 4 * t.sums_step);
        end_place(a, place, *begin, image, first + k, 4, tile.first_run == 0);
        continue;
      }
      for (const Run* run = begin; run != begin + tile.runs; ++run) {
        const CodePlace place = place_of(a, rounding, image, first + k, 4, *run);
        for (int j = 0; j < vectors_of(*run); ++j) {
          Ints four[4][1];
          each<4>(DOVETAIL_LAMBDA(int i) { four[i][0] = load_words(sums + i * t.sums_step + run->x + j * kLanes); });
          finish_four<1>(four, 0, place, j);
        }
        end_place(a, place, *run, image, first + k, 4, tile.first_run == 0 && run == begin);
      }
    }
  });
}
