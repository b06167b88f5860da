// The sparse convolution with every load aligned and from L1: a sum of its own for each column of the kernel.
//
// A tap reaches its pixels by whole vectors but for its column, and a shift of the input by columns is a shift of the sum:
// so the entries of one column add up where they find the pixels, and the sum is turned into place once. Lines of the
// input (a vector of pixels each; on narrow maps, of two rows) are copied to scratch, as many channels at a time as L1
// holds; until the next ones come, the sums of all outputs wait in scratch too. Loops: unit (image, tile of up to
// kMostLines lines, group of outputs) > block of channels > output > column > entry > line.

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

// All outputs of a unit, and the lines of one block of channels.
struct ColumnBlock {
  const float* x;
  const Entry* entries;
  const int32_t *starts, *turns;  // one list for each output and column; how all columns but the last are turned
  int64_t columns, outputs;
  const float* bias;  // of the first block only, if any
  bool first;
  float* sums;
  int64_t sums_step;
  float* y;  // null: the sums are kept. Else they end here, each vector being a row
  const float* residual;
  int64_t y_channel, r_channel, y_row;
  uint32_t mask;
  int pixels;
  Clamp clamp;
};

constexpr int64_t kEntriesAhead = 256;  // fetched so early: lists that come from memory keep nobody waiting

// Adds up a list, the entries in turn to one or two sums. Weights and places of a few entries are loaded before their
// multiply-adds: these then run undisturbed, which gains a third.
template <int P>
__attribute__((always_inline)) inline void add_entries(const float* x, const Entry* e, const Entry* end, Vec (&acc)[P]) {
  constexpr bool few = P <= kMostLines / 2;
  constexpr int chains = few ? 2 : 1, ahead = (kLanes == 16 ? 4 : 2) * chains;
  Vec other[few ? P : 1];
  if constexpr (few) each<P>(DOVETAIL_LAMBDA(int j) { other[j] = splat(0.0f); });
  for (; end - e >= ahead; e += ahead) {
    const float* p[ahead];
    Vec w[ahead];
    __builtin_prefetch(e + kEntriesAhead);
    each<ahead>(DOVETAIL_LAMBDA(int i) { p[i] = x + e[i].offset, w[i] = splat(e[i].weight); });
    each<ahead>(DOVETAIL_LAMBDA(int i) {
      each<P>(DOVETAIL_LAMBDA(int j) {
        Vec& sum = i % chains ? other[few ? j : 0] : acc[j];
        sum = fma(w[i], load(p[i] + j * kLanes), sum);
      });
    });
  }
  for (; e != end; ++e) {
    const float* p = x + e->offset;
    const Vec w = splat(e->weight);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(w, load(p + j * kLanes), acc[j]); });
  }
  if constexpr (few) each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = add(acc[j], other[j]); });
}

template <int P>
void add_block(const ColumnBlock& t) {
  const int32_t* start = t.starts;
  const float* residual = t.residual;
  float *sums = t.sums, *y = t.y;
  for (int64_t k = 0; k < t.outputs; ++k, sums += t.sums_step) {
    Vec total[P];
    const Vec bias = splat(t.bias ? t.bias[k] : 0.0f);
    each<P>(DOVETAIL_LAMBDA(int j) { total[j] = t.first ? bias : load(sums + j * kLanes); });
    const int32_t* turn = t.turns;
    for (int64_t c = 1; c < t.columns; ++c, ++start, turn += kLanes + 1) {
      Vec acc[P];
      each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = splat(0.0f); });
      add_entries<P>(t.x, t.entries + start[0], t.entries + start[1], acc);
      const Ints from = load_words(turn);
      const auto bits = static_cast<uint32_t>(turn[kLanes]);
      each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(total[j], keep(pick_lanes(acc[j], from), bits)); });
    }
    add_entries<P>(t.x, t.entries + start[0], t.entries + start[1], total);
    ++start;
    if (!y) {
      each<P>(DOVETAIL_LAMBDA(int j) { store(sums + j * kLanes, total[j]); });
      continue;
    }
    if (residual) {
      each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(total[j], load(residual + j * t.y_row)); });
      residual += t.r_channel;
    }
    each<P>(DOVETAIL_LAMBDA(int j) { store_first(y + j * t.y_row, keep(bounded(total[j], t.clamp), t.mask), t.pixels); });
    y += t.y_channel;
  }
}

using ColumnFunction = void (*)(const ColumnBlock&);

inline ColumnFunction add_block_for(int lines) {
  switch (lines) {
#define DOVETAIL_CASE(P) case P: return add_block<(P <= kMostLines ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
    DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13) DOVETAIL_CASE(14)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

// A line at `p`: pixels side by side or every second one, of one row or two.
inline Vec load_line(const float* p, const ConvColumnsArgs& a) {
  if (a.step == 2) return even_lanes(load(p), load(p + (a.half_row ? a.half_row : kLanes)));
  return a.half_row ? load_halves(p, p + a.half_row) : load(p);
}

// Copies the lines of `channels` channels; each gets `line_count` of them, of which a small tile leaves some as they are.
inline void copy_lines(const ConvColumnsArgs& a, const float* x, int64_t channels, int vectors, float* to) {
  const auto* strips = reinterpret_cast<const Strip*>(a.strips);
  for (int64_t c = 0; c < channels; ++c, x += a.x_channel, to += a.line_count * kLanes) {
    float* line = to;
    for (const Strip* strip = strips; strip != strips + a.strip_count; ++strip) {
      const float* p = x + strip->x;
      const int lines = strip->extra + vectors;
      for (int i = 0; i < lines; ++i, p += a.line_step) store(line + i * kLanes, load_line(p, a));
      line += (strip->extra + a.most_vectors) * kLanes;
    }
  }
}

// What the sums of a tile need beyond `add_block`: all of their end, or the zeros that no vector of pixels reaches.
inline void finish_tile(const ConvColumnsArgs& a, const ColumnTile& tile, const ColumnBlock& t, int64_t image, int64_t first) {
  const Run* const end = runs_of(a.runs) + tile.first_run + tile.runs;
  for (int64_t i = 0; i < t.outputs; ++i) {
    const int64_t k = first + i;
    float* plane = a.y + image * a.y_image + k * a.y_channel;
    if (!t.y) {
      const float* residual = a.residual ? a.residual + image * a.r_image + k * a.r_channel : nullptr;
      finish_runs(t.sums + i * t.sums_step, end - tile.runs, tile.runs, t.clamp, residual, plane, a.masks, a.activation, a.act_a, a.act_b);
    } else {
      for (const Run* run = end - tile.long_runs; run != end; ++run)
        for (int i = t.pixels; i < run->pixels; i += kLanes) put(plane + run->y + i, splat(0.0f), run->pixels - i);
    }
    if (tile.first_run == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
  }
}

void conv2d_sparse_columns_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvColumnsArgs*>(arguments);
  const auto* tiles = reinterpret_cast<const ColumnTile*>(a.tiles);
  const int64_t per_image = a.tile_count * a.group_count;
  const int64_t most_channels = (a.channels + a.block_count - 1) / a.block_count;
  float* const lines = worker.scratch;
  ColumnBlock t;
  t.x = lines, t.entries = static_cast<const Entry*>(a.entries), t.turns = a.turns, t.columns = a.column_count;
  t.sums = lines + most_channels * a.line_count * kLanes, t.sums_step = a.most_vectors * kLanes;
  t.y_channel = a.y_channel, t.r_channel = a.r_channel, t.y_row = a.y_row, t.clamp = clamp_of(a.activation, a.act_a, a.act_b);
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, number = unit % per_image / a.group_count, group = unit % a.group_count;
      const int64_t first = a.out_channels * group / a.group_count;
      const ColumnTile& tile = tiles[number];
      const Run& row = runs_of(a.runs)[tile.first_run];
      t.outputs = a.out_channels * (group + 1) / a.group_count - first;
      t.pixels = row.pixels < kLanes ? row.pixels : kLanes, t.mask = a.masks[row.mask];
      for (int64_t block = 0; block < a.block_count; ++block) {
        const int64_t channel = a.channels * block / a.block_count, channels = a.channels * (block + 1) / a.block_count - channel;
        const bool ends = block + 1 == a.block_count && !a.half_row && t.clamp.exact;
        copy_lines(a, a.x + image * a.x_image + channel * a.x_channel + tile.x, channels, tile.vectors, lines);
        t.first = block == 0, t.bias = t.first && a.bias ? a.bias + first : nullptr;
        t.starts = a.starts + (block * a.out_channels + first) * a.column_count;
        t.y = ends ? a.y + image * a.y_image + first * a.y_channel + row.y : nullptr;
        t.residual = ends && a.residual ? a.residual + image * a.r_image + first * a.r_channel + row.y : nullptr;
        add_block_for(tile.vectors)(t);
      }
      finish_tile(a, tile, t, image, first);
    }
  });
}
