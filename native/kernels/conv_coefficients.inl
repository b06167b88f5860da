// Shared kernel bases over codes, coefficients first, where these are -1, 0 and 1: for each output and basis the codes of some
// channels are added up and those of others taken away, in 16 bits; then the bases meet these sums, two of them in a word, by
// dot products of 16-bit numbers. Nothing is rounded in between.
//
// A unit is a tile of rows of one image and a group of outputs. All channels' codes are widened into lines in scratch: a vector
// holds twice kLanes pixels, word i of it the pixels i and kLanes + i. So one addition serves twice the pixels, and the sums
// of two bases, joined, lie pixel by pixel, row by row. A tap then is a shift by rows of that, and a turn of the columns'
// sums, as in conv_sparse_columns.inl.

struct CoefficientTile {
  int32_t x, first_run, runs, halves, vectors;
};

constexpr int kMostHalves = kLanes == 16 ? 20 : 10;  // as in engine/codes_coefficients.py

// Entries of a list that go in one turn of its loop; few vectors make long lists' loops dear. Lists are as long as a multiple.
constexpr int coefficient_turn(int vectors) { return vectors <= 4 ? 4 : 1; }

template <bool Plus>
inline Ints with_halves(Ints sum, Ints codes) { return Plus ? add_halves(sum, codes) : sub_halves(sum, codes); }

template <int P, bool Plus>
__attribute__((always_inline)) inline void add_lines(const int32_t* lines, const int32_t* e, const int32_t* end, Ints (&acc)[P]) {
  constexpr int turn = coefficient_turn(P);
  for (; e != end; e += turn)
    each<turn>(DOVETAIL_LAMBDA(int i) {
      const int32_t* p = lines + e[i];
      each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = with_halves<Plus>(acc[j], load_words(p + j * kLanes)); });
    });
}

// The sums of `pairs` pairs of bases, joined word by word; `room` holds those of one basis. `starts` has the lists of every basis.
template <int P>
void coefficient_sums(const int32_t* lines, const int32_t* places, const int32_t* starts, int64_t pairs, int64_t pair, int32_t* room, int32_t* to) {
  for (int64_t b = 0; b < 2 * pairs; ++b, starts += 2) {
    Ints acc[P];
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = splat_word(0); });
    add_lines<P, true>(lines, places + starts[0], places + starts[1], acc);
    add_lines<P, false>(lines, places + starts[1], places + starts[2], acc);
    if (b % 2 == 0) {
      each<P>(DOVETAIL_LAMBDA(int j) { store_words(room + j * kLanes, acc[j]); });
      continue;
    }
    each<P>(DOVETAIL_LAMBDA(int j) {
      const Ints before = load_words(room + j * kLanes);
      store_words(to + 2 * j * kLanes, low_halves(before, acc[j]));
      store_words(to + (2 * j + 1) * kLanes, high_halves(before, acc[j]));
    });
    to += pair;
  }
}

using CoefficientFunction = void (*)(const int32_t*, const int32_t*, const int32_t*, int64_t, int64_t, int32_t*, int32_t*);

inline CoefficientFunction coefficient_sums_for(int vectors) {
  switch (vectors) {
#define DOVETAIL_CASE(P) case P: return coefficient_sums<(P <= kMostHalves ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
    DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13)
    DOVETAIL_CASE(14) DOVETAIL_CASE(15) DOVETAIL_CASE(16) DOVETAIL_CASE(17) DOVETAIL_CASE(18) DOVETAIL_CASE(19) DOVETAIL_CASE(20)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

struct PairColumns : CodeColumns {
  static Ints product(Ints sum, Ints pairs, Ints weights) { return dot_halves(sum, pairs, weights); }
};

struct BasisLists {
  const CodeEntry* entries;
  const int32_t *starts, *turns;
  int64_t columns;
};

// Adds a column's sums to the total, each where it belongs; with `Wide`, rows of two vectors.
template <int P, bool Wide>
__attribute__((always_inline)) inline void add_turned(const Ints (&acc)[P], const int32_t* turn, Ints (&total)[P]) {
  const Ints from = load_words(turn);
  each<P>(DOVETAIL_LAMBDA(int j) {
    const Ints turned = pick_lanes(acc[j], from);
    total[j] = add_where(total[j], static_cast<uint32_t>(turn[kLanes + (Wide ? j % 2 : 0)]), turned);
    if constexpr (Wide) total[j ^ 1] = add_where(total[j ^ 1], static_cast<uint32_t>(turn[kLanes + 2 + j % 2]), turned);
  });
}

// The bases' sums over `P` vectors of pixels.
template <int P, bool Wide>
void basis_sums(const BasisLists& t, const int32_t* pairs, int32_t bias, int32_t* to) {
  Ints total[P];
  each<P>(DOVETAIL_LAMBDA(int j) { total[j] = splat_word(bias); });
  const int32_t *start = t.starts, *turn = t.turns;
  for (int64_t c = 1; c < t.columns; ++c, ++start, turn += kLanes + 4) {
    Ints acc[P];
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = splat_word(0); });
    add_entries<PairColumns, P>(pairs, t.entries + start[0], t.entries + start[1], acc);
    add_turned<P, Wide>(acc, turn, total);
  }
  add_entries<PairColumns, P>(pairs, t.entries + start[0], t.entries + start[1], total);
  each<P>(DOVETAIL_LAMBDA(int j) { store_words(to + j * kLanes, total[j]); });
}

// The same where there are three columns, and each has an entry where the others have one: pairs are loaded once for all. Few
// vectors have two or three sums each, so that additions need not wait.
template <int P, bool Wide>
void three_basis_sums(const BasisLists& t, const int32_t* pairs, int32_t bias, int32_t* to) {
  constexpr int chains = P == 1 ? 3 : P == 2 ? 2 : 1;
  Ints acc[3][chains][P];
  each<3>(DOVETAIL_LAMBDA(int c) { each<chains>(DOVETAIL_LAMBDA(int i) { each<P>(DOVETAIL_LAMBDA(int j) { acc[c][i][j] = splat_word(0); }); }); });
  const CodeEntry *e = t.entries + t.starts[0], *f = t.entries + t.starts[1], *g = t.entries + t.starts[2];
  const auto add_one = DOVETAIL_LAMBDA(int i, int chain) {
    const int32_t* p = pairs + e[i].offset;
    const Ints w[3] = {splat_word(e[i].word), splat_word(f[i].word), splat_word(g[i].word)};
    each<P>(DOVETAIL_LAMBDA(int j) {
      const Ints pixels = load_words(p + j * kLanes);
      each<3>(DOVETAIL_LAMBDA(int c) { acc[c][chain][j] = dot_halves(acc[c][chain][j], pixels, w[c]); });
    });
  };
  int count = t.starts[1] - t.starts[0];
  for (; count >= chains; count -= chains, e += chains, f += chains, g += chains) each<chains>(DOVETAIL_LAMBDA(int i) { add_one(i, i); });
  for (int i = 0; i < count; ++i) add_one(i, 0);
  Ints sum[3][P], total[P];
  each<3>(DOVETAIL_LAMBDA(int c) {
    each<P>(DOVETAIL_LAMBDA(int j) {
      sum[c][j] = acc[c][0][j];
      each<chains - 1>(DOVETAIL_LAMBDA(int i) { sum[c][j] = add(sum[c][j], acc[c][i + 1][j]); });
    });
  });
  each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(sum[2][j], splat_word(bias)); });
  add_turned<P, Wide>(sum[0], t.turns, total);
  add_turned<P, Wide>(sum[1], t.turns + kLanes + 4, total);
  each<P>(DOVETAIL_LAMBDA(int j) { store_words(to + j * kLanes, total[j]); });
}

using BasisSumFunction = void (*)(const BasisLists&, const int32_t*, int32_t, int32_t*);

// Some vectors of a tile from word `at` on.
struct BasisPiece {
  int64_t at;
  BasisSumFunction sums;
};

constexpr int kMostThree = kLanes == 16 ? 6 : 2;  // vectors whose three columns are in registers

template <bool Wide>
inline BasisSumFunction basis_sums_for(int vectors, bool three) {
  switch (vectors) {
#define DOVETAIL_FITS(P, most) (P <= most && !(Wide && P % 2) ? P : 2)
#define DOVETAIL_CASE(P) \
  case P: return three ? three_basis_sums<DOVETAIL_FITS(P, kMostThree), Wide> : basis_sums<DOVETAIL_FITS(P, kMostLines), Wide>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
    DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13) DOVETAIL_CASE(14)
#undef DOVETAIL_CASE
#undef DOVETAIL_FITS
  }
  return nullptr;
}

// The lines of all channels of a tile in one phase, in 16 bits. `room`: for a channel's words.
template <int Rows, class Args>
inline void widen_lines(const Args& a, const int32_t* x, int halves, int32_t* room, int32_t* to) {
  const int64_t line = a.most_halves * kLanes;
  const bool wide = a.row_lanes > kLanes;
  for (int64_t c = 0; c < a.channels; ++c, x += a.x_channel, to += 4 * line) {
    const int32_t* p = x;
    for (int i = 0; i < 2 * halves; ++i) {
      copy_line<Rows>(p + (wide && i % 2 ? kLanes * a.step : 0), a.x_row, a.step, room + i * kLanes);
      if (!wide || i % 2) p += Rows * a.x_row;
    }
    for (int j = 0; j < halves; ++j) {
      const Ints low = load_words(room + 2 * j * kLanes), high = load_words(room + (2 * j + 1) * kLanes);
      each<4>(DOVETAIL_LAMBDA(int i) { store_words(to + i * line + j * kLanes, join_halves(byte_of(low, i), byte_of(high, i))); });
    }
  }
}

// The same as words of four channels' codes, `2 * halves` vectors each.
template <int Rows, class Args>
inline void copy_word_lines(const Args& a, const int32_t* x, int halves, int32_t*, int32_t* to) {
  const int64_t line = 2 * a.most_halves * kLanes;
  const bool wide = a.row_lanes > kLanes;
  for (int64_t c = 0; c < a.channels; ++c, x += a.x_channel, to += line) {
    const int32_t* p = x;
    for (int i = 0; i < 2 * halves; ++i) {
      copy_line<Rows>(p + (wide && i % 2 ? kLanes * a.step : 0), a.x_row, a.step, to + i * kLanes);
      if (!wide || i % 2) p += Rows * a.x_row;
    }
  }
}

struct WideLines {
  template <int Rows, class Args>
  static void read(const Args& a, const int32_t* x, int halves, int32_t* room, int32_t* to) { widen_lines<Rows>(a, x, halves, room, to); }
};

// Where outputs have their coefficients: each at places of its own.
struct OwnPlaces : WideLines {
  static constexpr int kOutputs = 1;  // whose sums are made together
  template <class Args>
  static void add_up(const Args& a, const int32_t* lines, int64_t k, int halves, int64_t line, int32_t* before, int32_t* pairs, int64_t) {
    coefficient_sums_for(halves)(lines, a.places, a.starts + k * a.base_count * 2, a.base_count / 2, 2 * line, before, pairs);
  }
};

// Or four at the same places. Their channels are in eight classes, by whether outputs 1, 2 and 3 have output 0's sign there. A class
// is added up once, as output 0 has it, and its sum is added to or taken from the sums of all four. `starts` has two lists a class.
struct SharedPlaces : WideLines {
  static constexpr int kOutputs = 4;
  static constexpr int kClasses = 8;
  static constexpr int kMost = kLanes == 16 ? 5 : 2;  // vectors of which four sums and one of a class are in registers

  // `before`: for four sums of `line` words; an output's pairs are `output` words behind those of the one before.
  template <int P>
  static void sums(const int32_t* lines, const int32_t* places, const int32_t* starts, int64_t bases, int64_t line, int32_t* before, int32_t* pairs, int64_t output) {
    for (int64_t b = 0; b < bases; ++b, starts += 2 * kClasses) {
      Ints acc[kOutputs][P];
      each<kOutputs>(DOVETAIL_LAMBDA(int i) { each<P>(DOVETAIL_LAMBDA(int j) { acc[i][j] = splat_word(0); }); });
      each<kClasses>(DOVETAIL_LAMBDA(int n) {
        const int32_t *e = places + starts[2 * n], *minus = places + starts[2 * n + 1], *end = places + starts[2 * n + 2];
        if (e == end) return;
        Ints sum[P];
        each<P>(DOVETAIL_LAMBDA(int j) { sum[j] = splat_word(0); });
        for (; e != minus; ++e) each<P>(DOVETAIL_LAMBDA(int j) { sum[j] = add_halves(sum[j], load_words(lines + *e + j * kLanes)); });
        for (; e != end; ++e) each<P>(DOVETAIL_LAMBDA(int j) { sum[j] = sub_halves(sum[j], load_words(lines + *e + j * kLanes)); });
        each<kOutputs>(DOVETAIL_LAMBDA(int i) {
          each<P>(DOVETAIL_LAMBDA(int j) { acc[i][j] = i && n >> (i - 1) & 1 ? sub_halves(acc[i][j], sum[j]) : add_halves(acc[i][j], sum[j]); });
        });
      });
      each<kOutputs>(DOVETAIL_LAMBDA(int i) {
        each<P>(DOVETAIL_LAMBDA(int j) {
          int32_t* const even = before + i * line + j * kLanes;
          if (b % 2 == 0) return store_words(even, acc[i][j]);
          const Ints first = load_words(even);
          store_words(pairs + i * output + 2 * j * kLanes, low_halves(first, acc[i][j]));
          store_words(pairs + i * output + (2 * j + 1) * kLanes, high_halves(first, acc[i][j]));
        });
      });
      if (b % 2) pairs += 2 * line;
    }
  }

  static auto sums_for(int vectors) {
    switch (vectors) {
#define DOVETAIL_CASE(P) case P: return sums<(P <= kMost ? P : 1)>;
      DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5)
#undef DOVETAIL_CASE
    }
    return sums<1>;
  }

  template <class Args>
  static void add_up(const Args& a, const int32_t* lines, int64_t k, int halves, int64_t line, int32_t* before, int32_t* pairs, int64_t output) {
    const int32_t* starts = a.starts + k / kOutputs * a.base_count * 2 * kClasses;
    even_pieces(halves, kMost, [&](int first, int count) {
      const int64_t at = static_cast<int64_t>(first) * kLanes;
      sums_for(count)(lines + at, a.places, starts, a.base_count, line, before, pairs + 2 * at, output);
    });
  }
};

// Or in blocks of four channels, which one dot product of bytes adds up whatever their signs: an entry holds the four of them.
// `starts` has a list an output and basis. Zeros within a block are what they are.
struct BlockPlaces {
  static constexpr int kOutputs = 1;
  static constexpr int kMost = kLanes == 16 ? 20 : 12;  // vectors of sums in registers
  static constexpr int kFew = kLanes == 16 ? 6 : 3;     // that have several sums each, so that additions need not wait; lists are fours then

  template <int Rows, class Args>
  static void read(const Args& a, const int32_t* x, int halves, int32_t* room, int32_t* to) { copy_word_lines<Rows>(a, x, halves, room, to); }

  template <int P>
  static void sums(const int32_t* lines, const CodeEntry* entries, const int32_t* starts, int64_t bases, int32_t* pairs, int64_t pair) {
    constexpr int chains = P <= 2 ? 4 : P <= kFew ? 2 : 1, turn = P <= kFew ? 4 : 1;
    for (int64_t b = 0; b < bases; ++b) {
      Ints acc[chains][P];
      each<chains>(DOVETAIL_LAMBDA(int i) { each<P>(DOVETAIL_LAMBDA(int j) { acc[i][j] = splat_word(0); }); });
      const CodeEntry* const end = entries + starts[b + 1];
      for (const CodeEntry* e = entries + starts[b]; e < end; e += turn)
        each<turn>(DOVETAIL_LAMBDA(int i) {
          const int32_t* const p = lines + e[i].offset;
          const Ints word = splat_word(e[i].word);
          each<P>(DOVETAIL_LAMBDA(int j) { acc[i % chains][j] = add_signed(acc[i % chains][j], load_words(p + j * kLanes), word); });
        });
      each<P>(DOVETAIL_LAMBDA(int j) {
        Ints sum = signed_sum(acc[0][j]);
        each<chains - 1>(DOVETAIL_LAMBDA(int i) { sum = add(sum, signed_sum(acc[i + 1][j])); });
        store_words(pairs + j * kLanes, b % 2 ? halves_of(load_words(pairs + j * kLanes), sum) : sum);
      });
      if (b % 2) pairs += pair;
    }
  }

  static auto sums_for(int vectors) {
    switch (vectors) {
#define DOVETAIL_CASE(P) case P: return sums<(P <= kMost ? P : 1)>;
      DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7) DOVETAIL_CASE(8)
      DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13) DOVETAIL_CASE(14) DOVETAIL_CASE(15)
      DOVETAIL_CASE(16) DOVETAIL_CASE(17) DOVETAIL_CASE(18) DOVETAIL_CASE(19) DOVETAIL_CASE(20)
#undef DOVETAIL_CASE
    }
    return sums<1>;
  }

  template <class Args>
  static void add_up(const Args& a, const int32_t* lines, int64_t k, int halves, int64_t line, int32_t*, int32_t* pairs, int64_t) {
    const auto* entries = reinterpret_cast<const CodeEntry*>(a.places);
    even_pieces(2 * halves, kMost, [&](int first, int count) {
      const int64_t at = static_cast<int64_t>(first) * kLanes;
      sums_for(count)(lines + at, entries, a.starts + k * a.base_count, a.base_count, pairs + at, 2 * line);
    });
  }
};

// The same over words of four channels, without tiles: pixels lie in a run as they do in the plane, row after row with the zeros
// between them, and a tap is a shift by words. Loads of shifted pixels are not aligned, but nothing is turned, and no lanes are
// lost but those of these zeros. A unit is a run of one image and a group of outputs; `stretch` words of a phase are what the taps of the
// longest run reach, from `first_tap` on.
void conv2d_run_coefficients_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvRunCoefficientsArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const auto* blocks = static_cast<const CodeEntry*>(a.blocks);
  const BasisLists lists = {static_cast<const CodeEntry*>(a.entries), a.basis_starts, nullptr, 1};
  const Rounding rounding = rounding_of(a);
  const int64_t phase = a.channels * a.stretch, phase_pairs = a.base_count / 2 * a.stretch, step = a.most_vectors * kLanes;
  const int64_t per_image = a.run_count * a.group_count, quads = (a.out_channels + 3) / 4;
  auto* const lines = reinterpret_cast<int32_t*>(worker.scratch);
  int32_t* const pairs = lines + a.phase_count * phase;
  int32_t* const sums = pairs + a.phase_count * phase_pairs;
  const Spread whole;  // rows are no parts of vectors
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, group = unit % a.group_count;
      Run run = runs[unit % per_image / a.group_count];
      const bool leads = unit % per_image < a.group_count;
      int vectors = vectors_of(run);
      while (vectors > 1 && !a.masks[run.mask + vectors - 1]) --vectors;  // zeros behind the last row
      const int used = vectors + static_cast<int>(a.stretch / kLanes - a.most_vectors);
      for (int64_t f = 0; f < a.phase_count; ++f)
        for (int64_t c = 0; c < a.channels; ++c) {
          const int32_t* const x = a.x + image * a.x_image + run.x + a.phases[f] + a.first_tap + c * a.x_channel;
          int32_t* const to = lines + f * phase + c * a.stretch;
          for (int j = 0; j < used; ++j) store_words(to + j * kLanes, load_words(x + j * kLanes));
        }
      run.x = 0;  // of its sums
      for (int64_t k = 4 * (quads * group / a.group_count); k < 4 * (quads * (group + 1) / a.group_count); k += 4) {
        for (int i = 0; i < 4 && k + i < a.out_channels; ++i) {
          for (int64_t f = 0; f < a.phase_count; ++f)
            even_pieces(used, BlockPlaces::kMost, [&](int first, int count) {
              const int64_t at = static_cast<int64_t>(first) * kLanes;
              BlockPlaces::sums_for(count)(lines + f * phase + at, blocks, a.block_starts + (k + i) * a.base_count, a.base_count, pairs + f * phase_pairs + at, a.stretch);
            });
          even_pieces(vectors, kMostLines, [&](int first, int count) {
            const int64_t at = static_cast<int64_t>(first) * kLanes;
            basis_sums_for<false>(count, false)(lists, pairs + at, a.bias[k + i], sums + i * step + at);
          });
        }
        finish_code_tile(a, rounding, image, k, &run, 1, leads, sums, step, whole);
      }
    }
  });
}

template <class Places, class Args>
void conv_coefficients(const Args& a, Worker& worker) {
  const auto* tiles = reinterpret_cast<const CoefficientTile*>(a.tiles);
  const Rounding rounding = rounding_of(a);
  const BasisLists lists = {static_cast<const CodeEntry*>(a.entries), a.basis_starts, a.turns, a.column_count};
  const bool wide = a.row_lanes > kLanes;
  const bool three = a.column_count == 3 && a.phase_count == 1;
  const int unit_vectors = wide ? 2 : 1;
  const int64_t line = a.most_halves * kLanes, phase = (4 * a.channels + 1) * line, step = a.most_vectors * kLanes;
  const int64_t pair_count = a.base_count / 2, per_image = a.tile_count * a.group_count, quads = (a.out_channels + 3) / 4;
  auto* const lines = reinterpret_cast<int32_t*>(worker.scratch);
  int32_t* const before = lines + a.phase_count * phase;
  int32_t* const pairs = before + Places::kOutputs * line;
  const int64_t output = a.phase_count * pair_count * 2 * line;
  int32_t* const sums = pairs + Places::kOutputs * output;
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t f = 0; f < a.phase_count; ++f) fill_words(lines + (f + 1) * phase - line, 0, line, 0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, group = unit % a.group_count;
      const CoefficientTile& tile = tiles[unit % per_image / a.group_count];
      const int64_t rows_of_vector = a.row_lanes < kLanes ? kLanes / a.row_lanes : 1;
      for (int64_t f = 0; f < a.phase_count; ++f)
        (rows_of_vector == 1 ? Places::template read<1, Args> : rows_of_vector == 2 ? Places::template read<2, Args> : Places::template read<4, Args>)(
            a, a.x + image * a.x_image + tile.x + a.phases[f], tile.halves, pairs, lines + f * phase);
      const Run* const runs = runs_of(a.runs) + tile.first_run;
      const Spread spread(runs, tile.runs, a.masks, rows_of_vector > 1 ? a.row_lanes : kLanes);
      BasisPiece pieces[2 * kMostHalves];
      BasisPiece* last = pieces;
      even_pieces(tile.vectors / unit_vectors, (three ? kMostThree : kMostLines) / unit_vectors, [&](int first, int count) {
        const BasisSumFunction function = (wide ? basis_sums_for<true> : basis_sums_for<false>)(count * unit_vectors, three);
        *last++ = {static_cast<int64_t>(first) * unit_vectors * kLanes, function};
      });
      for (int64_t k = 4 * (quads * group / a.group_count); k < 4 * (quads * (group + 1) / a.group_count); k += 4) {
        for (int i = 0; i < 4 && k + i < a.out_channels; ++i) {
          if (i % Places::kOutputs == 0)
            for (int64_t f = 0; f < a.phase_count; ++f)
              Places::add_up(a, lines + f * phase, k + i, tile.halves, line, before, pairs + f * pair_count * 2 * line, output);
          const int32_t* const own = pairs + i % Places::kOutputs * output;
          for (const BasisPiece* piece = pieces; piece != last; ++piece)
            piece->sums(lists, own + piece->at, a.bias[k + i], sums + i * step + piece->at);
        }
        finish_code_tile(a, rounding, image, k, runs, tile.runs, tile.first_run == 0, sums, step, spread);
      }
    }
  });
}

void conv2d_coefficients_int8(const void* arguments, Worker& worker) {
  conv_coefficients<OwnPlaces>(*static_cast<const ConvCoefficientsArgs*>(arguments), worker);
}

void conv2d_shared_coefficients_int8(const void* arguments, Worker& worker) {
  conv_coefficients<SharedPlaces>(*static_cast<const ConvSharedCoefficientsArgs*>(arguments), worker);
}

void conv2d_block_coefficients_int8(const void* arguments, Worker& worker) {
  conv_coefficients<BlockPlaces>(*static_cast<const ConvBlockCoefficientsArgs*>(arguments), worker);
}
