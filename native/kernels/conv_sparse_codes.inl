// Sparse convolution over codes in blocks of four input channels: an entry is a word offset and a word of four weights.
//
// Four outputs, which share their words of results, go side by side, each with its own entries; P vectors of pixels of
// each in registers. Unstructured weights run here too, with zeros in their words. And grouped convolutions whose groups
// are no whole words: one channel at a time.

struct CodeEntry {
  int32_t offset, word;
};

// What an entry adds to a sum.
struct WordProducts {
  static Ints product(Ints sum, Ints codes, Ints weights) { return dot(sum, codes, weights); }
};

template <class Op, int P>
void sparse_code_tile(const int32_t* x, const CodeEntry* entries, const int64_t* starts, const int32_t* bias, const CodePlace& place, int first) {
  Ints acc[4][P];
  x += first * kLanes;
  each<4>(DOVETAIL_LAMBDA(int k) {
    each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = splat_word(bias[k]); });
    if (k >= place.outputs) return;
    for (const CodeEntry *e = entries + starts[k], *last = entries + starts[k + 1]; e != last; ++e) {
      const int32_t* p = x + e->offset;
      const Ints w = splat_word(e->word);
      each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = Op::product(acc[k][j], load_words(p + j * kLanes), w); });
    }
  });
  finish_four<P>(acc, 0, place, first);
}

using SparseCodeFunction = void (*)(const int32_t*, const CodeEntry*, const int64_t*, const int32_t*, const CodePlace&, int);
constexpr int kSparseCodeVectors = kLanes == 16 ? 6 : 3;

template <class Op>
inline SparseCodeFunction sparse_code_tile_for(int vectors) {
  constexpr bool wide = kLanes == 16;
  static const SparseCodeFunction functions[] = {
      nullptr, sparse_code_tile<Op, 1>, sparse_code_tile<Op, 2>, sparse_code_tile<Op, 3>,
      sparse_code_tile<Op, wide ? 4 : 1>, sparse_code_tile<Op, wide ? 5 : 1>, sparse_code_tile<Op, wide ? 6 : 1>};
  return functions[vectors];
}

void conv2d_sparse_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvSparseCodesArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const auto* entries = static_cast<const CodeEntry*>(a.entries);
  const Rounding rounding = rounding_of(a);
  const int64_t quads = (a.out_channels + 3) / 4, per_image = quads * a.run_count, units = a.images * per_image;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, rest = unit % per_image;
      const int64_t first = 4 * (a.blocks_outer ? rest / a.run_count : rest % quads);
      const int64_t r = a.blocks_outer ? rest % a.run_count : rest / quads;
      const CodePlace place = place_of(a, rounding, image, first, 4, runs[r]);
      const int32_t* x = a.x + image * a.x_image + runs[r].x;
      even_pieces(vectors_of(runs[r]), kSparseCodeVectors, [&](int piece, int count) {
        sparse_code_tile_for<WordProducts>(count)(x, entries, a.starts + first, a.bias + first, place, piece);
      });
      end_place(a, place, runs[r], image, first, 4, r == 0);
    }
  });
}

inline void grouped_code_tile(const ConvGroupedCodesArgs& a, const int32_t* x, int64_t first, const CodePlace& place, int piece) {
  Ints acc[4][1];
  const int64_t outputs = a.out_channels / a.groups;
  for (int k = 0; k < 4; ++k) {
    acc[k][0] = splat_word(a.bias[first + k]);
    if (k >= place.outputs) continue;
    const int32_t* w = a.weight + (first + k) * a.channels * a.tap_count;
    for (int64_t c = (first + k) / outputs * a.channels, end = c + a.channels; c < end; ++c)
      for (int64_t i = 0; i < a.tap_count; ++i, ++w) {
        const Ints codes = byte_of(load_words(x + c / 4 * a.x_channel + piece * kLanes + a.taps[i]), static_cast<int>(c % 4));
        acc[k][0] = add(acc[k][0], mul(codes, splat_word(*w)));
      }
  }
  finish_four<1>(acc, 0, place, piece);
}

void conv2d_grouped_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvGroupedCodesArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const Rounding rounding = rounding_of(a);
  const int64_t quads = (a.out_channels + 3) / 4, per_image = quads * a.run_count, units = a.images * per_image;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, first = 4 * (unit % per_image / a.run_count), r = unit % a.run_count;
      const CodePlace place = place_of(a, rounding, image, first, 4, runs[r]);
      const int32_t* x = a.x + image * a.x_image + runs[r].x;
      for (int piece = 0; piece < vectors_of(runs[r]); ++piece) grouped_code_tile(a, x, first, place, piece);
      end_place(a, place, runs[r], image, first, 4, r == 0);
    }
  });
}
