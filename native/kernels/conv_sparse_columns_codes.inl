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

// Ends four outputs, from `k`, of a tile; their sums lie `step` apart, and a run's x offset is that of its sums.
template <class Args>
inline void finish_code_tile(const Args& a, const Rounding& rounding, int64_t image, int64_t k, const Run* begin, int64_t runs, bool leads, const int32_t* sums, int64_t step, const Spread& spread) {
  if (spread.fits && !rounding.real) {
    const CodePlace place = place_of(a, rounding, image, k, 4, *begin);
    finish_spread(sums, step, place, spread);
    end_place(a, place, *begin, image, k, 4, leads);
    return;
  }
  if (!rounding.real) {
    CodePlace place = place_of(a, rounding, image, k, 4, *begin);
    auto* const y = static_cast<int32_t*>(place.y) - begin->y;
    const auto* const residual = static_cast<const int32_t*>(place.residual);
    const uint32_t* const masks = a.masks;
    const Ints halo = splat_word(rounding.halo);
    for (const Run* run = begin; run != begin + runs; ++run) {
      const int pixels = run->pixels;
      const int32_t* from = sums + run->x;
      for (int at = 0, j = 0; at < pixels; at += kLanes, ++j, from += kLanes) {
        if (!masks[run->mask + j]) {  // zeros behind a row that fills its vectors
          put_words(y + run->y + at, halo, pixels - at);
          continue;
        }
        Ints four[4][1];
        each<4>(DOVETAIL_LAMBDA(int i) { four[i][0] = load_words(from + i * step); });
        finish_words<1>(four, place.multiplier, rounding, residual ? residual + run->y - begin->y : nullptr, y + run->y, masks + run->mask, j, pixels);
      }
    }
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
