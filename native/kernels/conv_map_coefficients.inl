// Shared kernel bases over codes, coefficients first, on maps of at most eight rows of eight pixels: all sums of an output are
// made at once, and nothing is stored but the lines of the input and what four outputs come to.
//
// A vector holds two or four rows of four pixels, or one or two of eight. For two bases at a time the words of four channels are
// added up over the whole map, as BlockPlaces in conv_coefficients.inl has it, without a halo: what lies outside adds nothing, once
// sums have lost what the zero of the codes adds to them.
// A tap is a move by rows of these sums and, once for each column of the kernel in the end, one by columns. Kernels are 3x3,
// padded by one, also with a stride of two: then there are four phases of the input, each with rows and columns of taps of its
// own; or 1x1, whose bases are numbers.

constexpr int kLargestMap = 8;  // rows and columns: as LARGEST_MAP in engine/codes_coefficients.py

enum class Side { one, three, strided };

// Sums to which a list's entries go by turns, so that additions need not wait: lists are as long as a multiple of them.
constexpr int sums_at_once(int vectors) { return vectors == 1 ? 4 : 2 * vectors <= kLanes ? 2 : 1; }

template <Side S, int Rows, int V>
struct MapSums {
  static constexpr int kPhases = S == Side::strided ? 4 : 1, kVectors = kPhases * V;
  static constexpr int kColumns = S == Side::one ? 1 : S == Side::strided ? 2 : 3;  // the one whose sums stay is
  static constexpr int kStays = S == Side::three ? 1 : kColumns - 1;

  __attribute__((always_inline)) static void add_up(const int32_t* lines, const CodeEntry* e, const CodeEntry* end, Ints (&sum)[kVectors]) {
    constexpr int chains = sums_at_once(kVectors);
    Ints acc[chains][kVectors];
    each<chains>(DOVETAIL_LAMBDA(int n) { each<kVectors>(DOVETAIL_LAMBDA(int j) { acc[n][j] = splat_word(0); }); });
    for (; e != end; e += chains) {
      __builtin_prefetch(e + kEntriesAhead);
      each<chains>(DOVETAIL_LAMBDA(int n) {
        const int32_t* const p = lines + e[n].offset;
        const Ints word = splat_word(e[n].word);
        each<kVectors>(DOVETAIL_LAMBDA(int j) { acc[n][j] = add_signed(acc[n][j], load_words(p + j * kLanes), word); });
      });
    }
    each<kVectors>(DOVETAIL_LAMBDA(int j) {
      sum[j] = signed_sum(acc[0][j]);
      each<chains - 1>(DOVETAIL_LAMBDA(int n) { sum[j] = add(sum[j], signed_sum(acc[n + 1][j])); });
    });
  }

  // One row of taps over one phase: `rows` as they lie under it, a weight for each of its columns.
  template <int First, int Columns>
  __attribute__((always_inline)) static void add_taps(const Ints (&rows)[V], const int32_t* weights, Ints (&acc)[kColumns][V]) {
    each<Columns>(DOVETAIL_LAMBDA(int c) {
      const Ints weight = splat_word(weights[c * (S == Side::strided ? 2 : 1)]);
      each<V>(DOVETAIL_LAMBDA(int j) { acc[First + c][j] = dot_halves(acc[First + c][j], rows[j], weight); });
    });
  }

  // All rows but the last under a first one of zeros; and all but the first over a last one.
  __attribute__((always_inline)) static void move_down(const Ints (&x)[V], Ints (&rows)[V]) {
    each<V>(DOVETAIL_LAMBDA(int j) {
      const Ints before = j ? x[j ? j - 1 : 0] : splat_word(0);
      if constexpr (Rows == 1) rows[j] = before;
      else rows[j] = moved_up<kLanes - kLanes / Rows>(before, x[j]);
    });
  }
  __attribute__((always_inline)) static void move_up(const Ints (&x)[V], Ints (&rows)[V]) {
    each<V>(DOVETAIL_LAMBDA(int j) {
      const Ints after = j + 1 < V ? x[j + 1 < V ? j + 1 : 0] : splat_word(0);
      if constexpr (Rows == 1) rows[j] = after;
      else rows[j] = moved_up<kLanes / Rows>(x[j], after);
    });
  }

  // The pair of bases meets its sums in phase F and those behind it: `weights` are its words.
  template <int F = 0>
  __attribute__((always_inline)) static void add_pair(const Ints (&x)[kVectors], const int32_t* weights, Ints (&acc)[kColumns][V]) {
    Ints at[V], moved[V];
    each<V>(DOVETAIL_LAMBDA(int j) { at[j] = x[F * V + j]; });
    if constexpr (S == Side::three) {
      add_taps<0, 3>(at, weights + 3, acc);
      move_down(at, moved), add_taps<0, 3>(moved, weights, acc);
      move_up(at, moved), add_taps<0, 3>(moved, weights + 6, acc);
    } else {  // even rows and columns lie under the taps in the middle, odd ones under the others
      constexpr int first = F % 2 ? 0 : 1, columns = F % 2 ? 2 : 1;
      if constexpr (F < 2) {
        add_taps<first, columns>(at, weights + 3 + first, acc);
      } else {
        move_down(at, moved), add_taps<first, columns>(moved, weights + first, acc);
        add_taps<first, columns>(at, weights + 6 + first, acc);
      }
      if constexpr (F < 3) add_pair<F + 1>(x, weights, acc);
    }
  }

  static void outputs(const ConvMapCoefficientsArgs& a, const int32_t* lines, int64_t k, int64_t end, int32_t* sums) {
    constexpr int taps = S == Side::one ? 1 : 9, together = S == Side::one ? 1 : 2;  // bases
    const auto* const entries = static_cast<const CodeEntry*>(a.blocks);
    const int32_t* start = a.block_starts + k * a.base_count;
    for (; k < end; ++k, sums += V * kLanes) {
      Ints acc[kColumns][V];
      each<kColumns>(DOVETAIL_LAMBDA(int c) { each<V>(DOVETAIL_LAMBDA(int j) { acc[c][j] = splat_word(c == kStays ? a.bias[k] : 0); }); });
      const int32_t* weights = a.bases;
      for (int64_t b = 0; b < a.base_count; b += together, start += together, weights += taps) {
        if (start[0] == start[together]) continue;
        Ints sum[together][kVectors];
        each<together>(DOVETAIL_LAMBDA(int n) {
          add_up(lines, entries + start[n], entries + start[n + 1], sum[n]);
          if (!a.zero_sums) return;
          const Ints more = splat_word(a.zero_sums[k * a.base_count + b + n]);
          each<kVectors>(DOVETAIL_LAMBDA(int j) { sum[n][j] = add(sum[n][j], more); });
        });
        if constexpr (S == Side::one) {
          const Ints weight = splat_word(*weights);
          each<V>(DOVETAIL_LAMBDA(int j) { acc[0][j] = add(acc[0][j], mul(sum[0][j], weight)); });
        } else {
          each<kVectors>(DOVETAIL_LAMBDA(int j) { sum[0][j] = halves_of(sum[0][j], sum[1][j]); });
          add_pair(sum[0], weights, acc);
        }
      }
      each<kColumns>(DOVETAIL_LAMBDA(int c) {
        if (c == kStays) return;
        const int32_t* const turn = a.turns + (c ? kLanes + 1 : 0);
        const Ints from = load_words(turn);
        each<V>(DOVETAIL_LAMBDA(int j) { acc[kStays][j] = add_where(acc[kStays][j], static_cast<uint32_t>(turn[kLanes]), pick_lanes(acc[c][j], from)); });
      });
      each<V>(DOVETAIL_LAMBDA(int j) { store_words(sums + j * kLanes, acc[kStays][j]); });
    }
  }
};

using MapFunction = void (*)(const ConvMapCoefficientsArgs&, const int32_t*, int64_t, int64_t, int32_t*);

// `row_lanes` is all of kLargestMap or half of it, and so are the rows that the vectors hold.
template <Side S>
inline MapFunction map_outputs_for(int64_t row_lanes, int64_t vectors) {
  constexpr int wide = kLargestMap, narrow = wide / 2, few = narrow * narrow / kLanes;  // few: vectors of a narrow and low map
  if (row_lanes == narrow) return vectors == few ? MapSums<S, kLanes / narrow, few>::outputs : MapSums<S, kLanes / narrow, 2 * few>::outputs;
  return vectors == 2 * few ? MapSums<S, kLanes / wide, 2 * few>::outputs : MapSums<S, kLanes / wide, 4 * few>::outputs;
}

void conv2d_map_coefficients_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvMapCoefficientsArgs*>(arguments);
  const Run* const runs = runs_of(a.runs);
  const Rounding rounding = rounding_of(a);
  const MapFunction outputs = a.side == 1 ? map_outputs_for<Side::one>(a.row_lanes, a.vectors)
                              : a.phase_count == 1 ? map_outputs_for<Side::three>(a.row_lanes, a.vectors)
                                                   : map_outputs_for<Side::strided>(a.row_lanes, a.vectors);
  const int64_t quads = (a.out_channels + 3) / 4, rows = kLanes / a.row_lanes, step = a.vectors * kLanes;
  auto* const lines = reinterpret_cast<int32_t*>(worker.scratch);
  int32_t* const sums = lines + a.channels * a.phase_count * step;
  for_units(worker, a.images * a.group_count, 1, [&](int64_t begin, int64_t end) {
    const Spread spread(runs, a.run_count, a.masks, a.row_lanes);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.group_count, group = unit % a.group_count;
      int32_t* line = lines;
      for (int64_t c = 0; c < a.channels; ++c)
        for (int64_t f = 0; f < a.phase_count; ++f) {
          const int32_t* x = a.x + image * a.x_image + c * a.x_channel + a.phases[f];
          for (int64_t j = 0; j < a.vectors; ++j, line += kLanes, x += rows * a.x_row)
            (rows == 1 ? copy_line<1> : rows == 2 ? copy_line<2> : copy_line<4>)(x, a.x_row, a.step, line);
        }
      for (int64_t k = 4 * (quads * group / a.group_count); k < 4 * (quads * (group + 1) / a.group_count); k += 4) {
        outputs(a, lines, k, k + 4 < a.out_channels ? k + 4 : a.out_channels, sums);
        finish_code_tile(a, rounding, image, k, runs, a.run_count, true, sums, step, spread);
      }
    }
  });
}
