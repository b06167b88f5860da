// The sparse convolution with every load aligned and from L1: a sum of its own for each column of the kernel.
//
// A tap reaches its pixels by whole vectors but for its column, and a shift of the input by columns is a shift of the sum:
// so the entries of one column add up where they find the pixels, and the sum is turned into place once. Lines of the
// input (a vector of pixels each; on narrow maps, of two or four rows) are copied to scratch, as many channels at a time as
// L1 holds; until the next ones come, the sums of all outputs wait in scratch too. Where a map is a line or two, each column
// gets lines of its own instead, and a list is no shorter than it must be. Loops: unit (image, tile of up to kMostLines
// lines, group of outputs) > block of channels > output > column > entry > line. Real numbers and words of codes alike.

// Of its runs, the last `long_runs` may be longer than the first, or than a vector.
struct ColumnTile {
  int32_t x, first_run, runs, long_runs, vectors;
};

// Lines of one channel that follow one another: `extra` more than the tile has.
struct Strip {
  int32_t x, extra;
};

// As in engine/columns.py: two sums for each line, and weights, fill the registers.
constexpr int kMostLines = kLanes == 16 ? 14 : 6;

struct RealColumns {
  using Element = float;
  using Lanes = Vec;
  using Item = Entry;
  static constexpr bool real = true;
  static constexpr int together = 1;  // outputs that no group tears apart
  static Vec weight(const Entry& e) { return splat(e.weight); }
  static Vec all(float x) { return splat(x); }
  static Vec load_lanes(const float* p) { return load(p); }
  static void store_lanes(float* p, Vec v) { store(p, v); }
  static Vec product(Vec sum, Vec pixels, Vec weight) { return fma(weight, pixels, sum); }
  static Vec turned(Vec v, Ints from, uint32_t bits) { return keep(pick_lanes(v, from), bits); }
};

// Where the sums of real numbers end, each vector being a row; y is null where they are kept.
struct RowEnd {
  float* y = nullptr;
  const float* residual = nullptr;
  int64_t y_channel = 0, r_channel = 0, y_row = 0;
  uint32_t mask = 0;
  int pixels = 0;
  Clamp clamp = {};
};

// All outputs of a unit, and the lines of one block of channels.
template <class Op>
struct ColumnBlock {
  const typename Op::Element* x;
  const typename Op::Item* entries;
  const int32_t *starts, *turns;  // one list for each output and column; how all columns but the last are turned
  int64_t columns, outputs;
  const typename Op::Element* bias;  // of the first block only, if any
  bool first;
  typename Op::Element* sums;
  int64_t sums_step;
  RowEnd end;
};

constexpr int64_t kEntriesAhead = 256;  // fetched so early: lists that come from memory keep nobody waiting

// Sums to which entries are added in turn, so that additions need not wait for one another. Lists for tiles of one line are
// as long as a multiple of them, as in engine/columns.py.
constexpr int column_chains(int lines) { return lines == 1 ? 8 : lines == 2 ? 4 : lines <= kMostLines / 2 ? 2 : 1; }

// Adds up a list. Weights and places of a few entries are loaded before their multiply-adds: these then run undisturbed,
// which gains a third.
template <class Op, int P>
__attribute__((always_inline)) inline void add_entries(const typename Op::Element* x, const typename Op::Item* e, const typename Op::Item* end, typename Op::Lanes (&acc)[P]) {
  constexpr int chains = column_chains(P), few = kLanes == 16 ? 4 : 2, count = chains < 4 ? few * chains : chains;
  typename Op::Lanes other[chains][P];  // the first is `acc`
  each<chains - 1>(DOVETAIL_LAMBDA(int i) { each<P>(DOVETAIL_LAMBDA(int j) { other[i + 1][j] = Op::all(0); }); });
  for (; end - e >= count; e += count) {
    const typename Op::Element* p[count];
    typename Op::Lanes w[count];
    __builtin_prefetch(e + kEntriesAhead);
    each<count>(DOVETAIL_LAMBDA(int i) { p[i] = x + e[i].offset, w[i] = Op::weight(e[i]); });
    each<count>(DOVETAIL_LAMBDA(int i) {
      each<P>(DOVETAIL_LAMBDA(int j) {
        auto& sum = i % chains ? other[i % chains][j] : acc[j];
        sum = Op::product(sum, Op::load_lanes(p[i] + j * kLanes), w[i]);
      });
    });
  }
  for (; e != end; ++e) {
    const auto* p = x + e->offset;
    const auto w = Op::weight(*e);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = Op::product(acc[j], Op::load_lanes(p + j * kLanes), w); });
  }
  each<chains - 1>(DOVETAIL_LAMBDA(int i) { each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = add(acc[j], other[i + 1][j]); }); });
}

template <class Op, int P>
void add_block(const ColumnBlock<Op>& t) {
  using Lanes = typename Op::Lanes;
  const int32_t* start = t.starts;
  const float* residual = t.end.residual;
  float* y = t.end.y;
  auto* sums = t.sums;
  for (int64_t k = 0; k < t.outputs; ++k, sums += t.sums_step) {
    Lanes total[P];
    const Lanes bias = Op::all(t.bias ? t.bias[k] : 0);
    each<P>(DOVETAIL_LAMBDA(int j) { total[j] = t.first ? bias : Op::load_lanes(sums + j * kLanes); });
    const int32_t* turn = t.turns;
    for (int64_t c = 1; c < t.columns; ++c, ++start, turn += kLanes + 1) {
      Lanes acc[P];
      each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = Op::all(0); });
      add_entries<Op, P>(t.x, t.entries + start[0], t.entries + start[1], acc);
      const Ints from = load_words(turn);
      const auto bits = static_cast<uint32_t>(turn[kLanes]);
      each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(total[j], Op::turned(acc[j], from, bits)); });
    }
    add_entries<Op, P>(t.x, t.entries + start[0], t.entries + start[1], total);
    ++start;
    if constexpr (Op::real) {
      if (y) {
        if (residual) {
          each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(total[j], load(residual + j * t.end.y_row)); });
          residual += t.end.r_channel;
        }
        each<P>(DOVETAIL_LAMBDA(int j) { store_first(y + j * t.end.y_row, keep(bounded(total[j], t.end.clamp), t.end.mask), t.end.pixels); });
        y += t.end.y_channel;
        continue;
      }
    }
    each<P>(DOVETAIL_LAMBDA(int j) { Op::store_lanes(sums + j * kLanes, total[j]); });
  }
}

template <class Op>
using ColumnFunction = void (*)(const ColumnBlock<Op>&);

template <class Op>
inline ColumnFunction<Op> add_block_for(int lines) {
  switch (lines) {
#define DOVETAIL_CASE(P) case P: return add_block<Op, (P <= kMostLines ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
    DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13) DOVETAIL_CASE(14)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

// A line of `Rows` rows at `p`, `row` apart: pixels side by side or every second one.
template <int Rows>
inline void copy_line(const int32_t* p, int64_t row, int64_t step, int32_t* to) {
  constexpr int lanes = kLanes / Rows;
  for (int r = 0; r < Rows; ++r, p += row, to += lanes) {
    if (step == 1) {
      std::memcpy(to, p, lanes * sizeof(int32_t));
    } else if constexpr (Rows == 1) {
      store_words(to, even_lanes(load_words(p), load_words(p + kLanes)));
    } else {
      const Ints both = load_words_first(p, 2 * lanes);
      store_words_first(to, even_lanes(both, both), lanes);
    }
  }
}

// Copies the lines of `channels` channels; each gets `line_count` of them, of which a small tile leaves some as they are.
template <int Rows, class Args>
inline void copy_lines(const Args& a, const int32_t* x, int64_t channels, int vectors, int32_t* to) {
  const auto* strips = reinterpret_cast<const Strip*>(a.strips);
  for (int64_t c = 0; c < channels; ++c, x += a.x_channel, to += a.line_count * kLanes) {
    int32_t* line = to;
    for (const Strip* strip = strips; strip != strips + a.strip_count; ++strip) {
      const int32_t* p = x + strip->x;
      const int lines = strip->extra + vectors;
      for (int i = 0; i < lines; ++i, p += Rows * a.x_row) copy_line<Rows>(p, a.x_row, a.step, line + i * kLanes);
      line += (strip->extra + a.most_vectors) * kLanes;
    }
  }
}

// All sums of a unit at a time; finish(image, tile, first output, block) ends them, or what is left of them.
template <class Op, class Args, class Finish>
inline void for_column_units(const Args& a, Worker& worker, const RowEnd& row_end, const Finish& finish) {
  using Element = typename Op::Element;
  static_assert(sizeof(Element) == sizeof(int32_t), "lines are copied as words");
  const auto* tiles = reinterpret_cast<const ColumnTile*>(a.tiles);
  const int64_t per_image = a.tile_count * a.group_count;
  const int64_t most_channels = (a.channels + a.block_count - 1) / a.block_count;
  const auto output_of = [&](int64_t group) {
    const int64_t first = (a.out_channels + Op::together - 1) / Op::together * group / a.group_count * Op::together;
    return first < a.out_channels ? first : a.out_channels;
  };
  auto* const lines = reinterpret_cast<int32_t*>(worker.scratch);
  ColumnBlock<Op> t;
  t.x = reinterpret_cast<Element*>(lines), t.entries = static_cast<const typename Op::Item*>(a.entries);
  t.turns = a.turns, t.columns = a.column_count;
  t.sums = reinterpret_cast<Element*>(lines) + most_channels * a.line_count * kLanes, t.sums_step = a.most_vectors * kLanes;
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, number = unit % per_image / a.group_count, group = unit % a.group_count;
      const int64_t first = output_of(group);
      const ColumnTile& tile = tiles[number];
      t.outputs = output_of(group + 1) - first;
      for (int64_t block = 0; block < a.block_count; ++block) {
        const int64_t channel = a.channels * block / a.block_count, channels = a.channels * (block + 1) / a.block_count - channel;
        const auto* x = reinterpret_cast<const int32_t*>(a.x) + image * a.x_image + channel * a.x_channel + tile.x;
        (a.line_rows == 1 ? copy_lines<1, Args> : a.line_rows == 2 ? copy_lines<2, Args> : copy_lines<4, Args>)(a, x, channels, tile.vectors, lines);
        t.first = block == 0, t.bias = t.first && a.bias ? a.bias + first : nullptr;
        t.starts = a.starts + (block * a.out_channels + first) * a.column_count;
        if constexpr (Op::real) {
          if (block + 1 == a.block_count && a.line_rows == 1 && row_end.clamp.exact) {
            const Run& row = runs_of(a.runs)[tile.first_run];
            t.end = row_end;
            t.end.pixels = row.pixels < kLanes ? row.pixels : kLanes, t.end.mask = a.masks[row.mask];
            t.end.y = a.y + image * a.y_image + first * a.y_channel + row.y;
            t.end.residual = a.residual ? a.residual + image * a.r_image + first * a.r_channel + row.y : nullptr;
          } else {
            t.end.y = nullptr;
          }
        }
        add_block_for<Op>(tile.vectors)(t);
      }
      finish(image, tile, first, t);
    }
  });
}

// What the sums of a tile need beyond `add_block`: all of their end, or the zeros that no vector of pixels reaches.
inline void finish_tile(const ConvColumnsArgs& a, const Clamp& clamp, const ColumnTile& tile, const ColumnBlock<RealColumns>& t, int64_t image, int64_t first) {
  const Run* const end = runs_of(a.runs) + tile.first_run + tile.runs;
  for (int64_t i = 0; i < t.outputs; ++i) {
    const int64_t k = first + i;
    float* plane = a.y + image * a.y_image + k * a.y_channel;
    if (!t.end.y) {
      const float* residual = a.residual ? a.residual + image * a.r_image + k * a.r_channel : nullptr;
      finish_runs(t.sums + i * t.sums_step, end - tile.runs, tile.runs, clamp, residual, plane, a.masks, a.activation, a.act_a, a.act_b);
    } else {
      for (const Run* run = end - tile.long_runs; run != end; ++run)
        for (int at = t.end.pixels; at < run->pixels; at += kLanes) put(plane + run->y + at, splat(0.0f), run->pixels - at);
    }
    if (tile.first_run == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
  }
}

void conv2d_sparse_columns_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvColumnsArgs*>(arguments);
  RowEnd end;
  end.y_channel = a.y_channel, end.r_channel = a.r_channel, end.y_row = a.y_row, end.clamp = clamp_of(a.activation, a.act_a, a.act_b);
  for_column_units<RealColumns>(a, worker, end, [&](int64_t image, const ColumnTile& tile, int64_t first, const ColumnBlock<RealColumns>& t) {
    finish_tile(a, end.clamp, tile, t, image, first);
  });
}
