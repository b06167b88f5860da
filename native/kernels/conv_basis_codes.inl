// Shared kernel bases over codes, conv-first: maps[c, b] = codes of channel c met by basis b, in 32 bits; then the sum of
// output o is that of coefficient[o, c, b] * maps[c, b]. Nothing is rounded in between, so the sums are those of the weight
// that bases and coefficients stand for: they are proved to fit 32 bits, and what wraps around on the way comes back.
//
// A unit is one run of pixels of one image, its maps in the thread's scratch and so in L2, as in conv_basis.inl. Stage one takes
// a word of four channels: the bytes of four taps are turned around, so that a word holds four taps of one channel, and a dot
// product does four multiply-adds. The maps of four channels and B bases are in registers. Stage two is the sparse kernel; of
// coefficients that are 1 and -1 it multiplies nothing.

template <int B>
void basis_code_maps(const int32_t* x, const int32_t* bases, const int32_t* taps, int64_t quads, int64_t stride, int32_t* maps, int64_t map_stride) {
  Ints acc[4][B];
  each<4>(DOVETAIL_LAMBDA(int c) { each<B>(DOVETAIL_LAMBDA(int b) { acc[c][b] = splat_word(0); }); });
  for (int64_t i = 0; i < quads; ++i, taps += 4, bases += stride) {
    Ints v[4];
    each<4>(DOVETAIL_LAMBDA(int t) { v[t] = load_words(x + taps[t]); });
    transpose_bytes(v);
    each<B>(DOVETAIL_LAMBDA(int b) {
      const Ints weights = splat_word(bases[b]);
      each<4>(DOVETAIL_LAMBDA(int c) { acc[c][b] = dot(acc[c][b], v[c], weights); });
    });
  }
  each<4>(DOVETAIL_LAMBDA(int c) {
    each<B>(DOVETAIL_LAMBDA(int b) { store_words(maps + (c * stride + b) * map_stride, acc[c][b]); });
  });
}

using BasisCodeFunction = void (*)(const int32_t*, const int32_t*, const int32_t*, int64_t, int64_t, int32_t*, int64_t);
constexpr int kCodeBases = kLanes == 16 ? 5 : 2;

inline BasisCodeFunction basis_code_maps_for(int bases) {
  static const BasisCodeFunction functions[] = {nullptr, basis_code_maps<1>, basis_code_maps<2>,
                                                basis_code_maps<3>, basis_code_maps<4>, basis_code_maps<5>};
  return functions[bases];
}

struct MapProducts {
  static Ints product(Ints sum, Ints map, Ints coefficient) { return add(sum, mul(map, coefficient)); }
};

// Four outputs: maps that are added, then those taken away.
template <int P>
void signed_code_tile(const int32_t* maps, const CodeEntry* entries, const int64_t* starts, const int64_t* splits, const int32_t* bias, const CodePlace& place, int first) {
  Ints acc[4][P];
  maps += first * kLanes;
  each<4>(DOVETAIL_LAMBDA(int k) {
    each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = splat_word(bias[k]); });
    if (k >= place.outputs) return;
    const CodeEntry *e = entries + starts[k], *const split = entries + splits[k], *const end = entries + starts[k + 1];
    for (; e != split; ++e) each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = add(acc[k][j], load_words(maps + e->offset + j * kLanes)); });
    for (; e != end; ++e) each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = sub(acc[k][j], load_words(maps + e->offset + j * kLanes)); });
  });
  finish_four<P>(acc, 0, place, first);
}

using SignedCodeFunction = void (*)(const int32_t*, const CodeEntry*, const int64_t*, const int64_t*, const int32_t*, const CodePlace&, int);

inline SignedCodeFunction signed_code_tile_for(int vectors) {
  constexpr bool wide = kLanes == 16;
  static const SignedCodeFunction functions[] = {nullptr, signed_code_tile<1>, signed_code_tile<2>, signed_code_tile<3>,
                                                 signed_code_tile<wide ? 4 : 1>, signed_code_tile<wide ? 5 : 1>, signed_code_tile<wide ? 6 : 1>};
  return functions[vectors];
}

void conv2d_kernel_basis_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvBasisCodesArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const auto* entries = static_cast<const CodeEntry*>(a.entries);
  const Rounding rounding = rounding_of(a);
  auto* maps = reinterpret_cast<int32_t*>(worker.scratch);
  for_units(worker, a.images * a.run_count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.run_count, r = unit % a.run_count;
      const Run& run = runs[r];
      for (int64_t u = 0; u < a.used_count; ++u) {
        const int32_t* x = a.x + image * a.x_image + run.x + a.used[u];
        even_pieces(static_cast<int>(a.base_count), kCodeBases, [&](int base, int count) {
          int32_t* at = maps + (4 * u * a.base_count + base) * a.map_stride;
          for (int j = 0; j < vectors_of(run); ++j)
            basis_code_maps_for(count)(x + j * kLanes, a.bases + base, a.taps, a.quad_count, a.base_count, at + j * kLanes, a.map_stride);
        });
      }
      for (int64_t k = 0; k < a.out_channels; k += 4) {
        const CodePlace place = place_of(a, rounding, image, k, 4, run);
        even_pieces(vectors_of(run), kSparseCodeVectors, [&](int piece, int count) {
          if (a.splits) {
            signed_code_tile_for(count)(maps, entries, a.starts + k, a.splits + k, a.bias + k, place, piece);
          } else {
            sparse_code_tile_for<MapProducts>(count)(maps, entries, a.starts + k, a.bias + k, place, piece);
          }
        });
        end_place(a, place, run, image, k, 4, r == 0);
      }
    }
  });
}
