// The dense convolution over codes: as conv_dense.inl, but a plane holds words of four channels, a weight is a word, and
// one dot product of bytes does four multiply-adds. 8 or 4 outputs by P vectors of pixels in registers.
//
// The sum of weight * (code - zero) is the sum of weight * code plus a constant, which is in the bias; so the halo holds
// codes of zero.

struct CodeTile {
  const int32_t *x, *weight, *bias, *taps;
  int64_t taps_count, channels, x_channel;
  int first;
};

template <int K, int P>
void code_tile(const CodeTile& t, const CodePlace& place) {
  Ints acc[K][P];
  each<K>(DOVETAIL_LAMBDA(int k) {
    const Ints start = splat_word(t.bias[k]);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = start; });
  });
  const int32_t* w = t.weight;
  const int32_t* x = t.x + t.first * kLanes;
  for (int64_t c = 0; c < t.channels; ++c, x += t.x_channel) {
    for (int64_t i = 0; i < t.taps_count; ++i, w += K) {
      __builtin_prefetch(w + kAhead, 0, 2);
      const int32_t* p = x + t.taps[i];
      Ints v[P];
      each<P>(DOVETAIL_LAMBDA(int j) { v[j] = load_words(p + j * kLanes); });
      each<K>(DOVETAIL_LAMBDA(int k) {
        const Ints weight = splat_word(w[k]);
        each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = dot(acc[k][j], v[j], weight); });
      });
    }
  }
  each<K / 4>(DOVETAIL_LAMBDA(int g) { finish_four<P>(acc + 4 * g, g, place, t.first); });
}

using CodeFunction = void (*)(const CodeTile&, const CodePlace&);
constexpr int kCodeVectors4 = kLanes == 16 ? 6 : 2, kCodeVectors8 = kLanes == 16 ? 3 : 1;

inline CodeFunction code_tile_for(int outputs, int vectors) {
  constexpr bool wide = kLanes == 16;  // else blocks are of four outputs
  static const CodeFunction four[] = {nullptr, code_tile<4, 1>, code_tile<4, 2>, code_tile<4, wide ? 3 : 1>,
                                      code_tile<4, wide ? 4 : 1>, code_tile<4, wide ? 5 : 1>, code_tile<4, wide ? 6 : 1>};
  static const CodeFunction eight[] = {nullptr, code_tile<wide ? 8 : 4, 1>, code_tile<wide ? 8 : 4, wide ? 2 : 1>,
                                       code_tile<wide ? 8 : 4, wide ? 3 : 1>};
  return (outputs == 4 ? four : eight)[vectors];
}

void conv2d_dense_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvDenseCodesArgs*>(arguments);
  const auto* blocks = reinterpret_cast<const Block*>(a.blocks);
  const Run* runs = runs_of(a.runs);
  const Rounding rounding = rounding_of(a);
  const int64_t per_image = a.block_count * a.run_count, units = a.images * per_image;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, rest = unit % per_image;
      const int64_t b = a.blocks_outer ? rest / a.run_count : rest % a.block_count;
      const int64_t r = a.blocks_outer ? rest % a.run_count : rest / a.block_count;
      const Block& block = blocks[b];
      const CodePlace place = place_of(a, rounding, image, block.first, block.outputs, runs[r]);
      CodeTile t;
      t.x = a.x + image * a.x_image + block.group * a.channels * a.x_channel + runs[r].x;
      t.weight = a.weight + block.weight, t.bias = a.bias + block.first, t.taps = a.taps;
      t.taps_count = a.tap_count, t.channels = a.channels, t.x_channel = a.x_channel;
      even_pieces(vectors_of(runs[r]), block.outputs == 8 ? kCodeVectors8 : kCodeVectors4, [&](int first, int count) {
        t.first = first;
        code_tile_for(block.outputs, count)(t, place);
      });
      end_place(a, place, runs[r], image, block.first, block.outputs, r == 0);
    }
  });
}
