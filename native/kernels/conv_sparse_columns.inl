// The sparse convolution with every load aligned and from L1: a sum of its own for each column of the kernel.
//
// A tap reaches its pixels by whole vectors but for its column, and a shift of the input by columns is a shift of the sum:
// so the entries of one column add up where they find the pixels, and the sum is turned into place once. Lines of the
// input (a vector of pixels each; on narrow maps, of two rows) are copied to scratch, as many channels at a time as L1
// holds; until the next ones come, the sums of all outputs wait in scratch too. Loops: unit (image, tile of up to
// kMostLines lines, group of outputs) > block of channels > output > column > entry > line.

struct ColumnTile {
  int32_t x, first_run, runs, vectors;
};

// Lines of one channel that follow one another: `extra` more than the tile has.
struct Strip {
  int32_t x, extra;
};

// As `_most_lines` in engine/columns.py: two sums for each line, and weights, fill the registers.
constexpr int kMostLines = kLanes == 16 ? 14 : 6;
constexpr int kSparseAhead = kLanes == 16 ? 4 : 2;

struct ColumnSums {
  const float* x;
  const Entry* entries;
  const int32_t *starts, *turns;  // of this output: one list for each column; how all but the last are turned
  int64_t columns;
  float bias;
  bool first;
  float* sums;
};

// Adds up a list; weights and places are fetched for a few entries at once, for the core then takes the loads that
// follow at nearly twice the speed.
template <int P>
__attribute__((always_inline)) inline void add_entries(const float* x, const Entry* e, const Entry* end, Vec (&acc)[P]) {
  for (; end - e >= kSparseAhead; e += kSparseAhead) {
    const float* p[kSparseAhead];
    Vec w[kSparseAhead];
    each<kSparseAhead>(DOVETAIL_LAMBDA(int i) { p[i] = x + e[i].offset, w[i] = splat(e[i].weight); });
    each<kSparseAhead>(DOVETAIL_LAMBDA(int i) {
      each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(w[i], load(p[i] + j * kLanes), acc[j]); });
    });
  }
  for (; e != end; ++e) {
    const float* p = x + e->offset;
    const Vec w = splat(e->weight);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = fma(w, load(p + j * kLanes), acc[j]); });
  }
}

template <int P>
void column_sums(const ColumnSums& t) {
  Vec total[P];
  each<P>(DOVETAIL_LAMBDA(int j) { total[j] = t.first ? splat(t.bias) : load(t.sums + j * kLanes); });
  const int32_t *start = t.starts, *turn = t.turns;
  for (int64_t c = 1; c < t.columns; ++c, ++start, turn += kLanes + 1) {
    Vec acc[P];
    each<P>(DOVETAIL_LAMBDA(int j) { acc[j] = splat(0.0f); });
    add_entries<P>(t.x, t.entries + start[0], t.entries + start[1], acc);
    const Ints from = load_words(turn);
    const auto bits = static_cast<uint32_t>(turn[kLanes]);
    each<P>(DOVETAIL_LAMBDA(int j) { total[j] = add(total[j], keep(pick_lanes(acc[j], from), bits)); });
  }
  add_entries<P>(t.x, t.entries + start[0], t.entries + start[1], total);
  each<P>(DOVETAIL_LAMBDA(int j) { store(t.sums + j * kLanes, total[j]); });
}

using ColumnFunction = void (*)(const ColumnSums&);

inline ColumnFunction column_sums_for(int lines) {
  switch (lines) {
#define DOVETAIL_CASE(P) case P: return column_sums<(P <= kMostLines ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7)
    DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12) DOVETAIL_CASE(13) DOVETAIL_CASE(14)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

// Copies the lines of `channels` channels; each gets `line_count` of them, of which a small tile leaves some as they are.
inline void copy_lines(const ConvColumnsArgs& a, const float* x, int64_t channels, int vectors, float* to) {
  const auto* strips = reinterpret_cast<const Strip*>(a.strips);
  for (int64_t c = 0; c < channels; ++c, x += a.x_channel, to += a.line_count * kLanes) {
    float* line = to;
    for (const Strip* strip = strips; strip != strips + a.strip_count; ++strip) {
      const float* p = x + strip->x;
      const int lines = strip->extra + vectors;
      for (int i = 0; i < lines; ++i, p += a.line_step) store(line + i * kLanes, a.half_row ? load_halves(p, p + a.half_row) : load(p));
      line += (strip->extra + a.most_vectors) * kLanes;
    }
  }
}

void conv2d_sparse_columns_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvColumnsArgs*>(arguments);
  const auto* tiles = reinterpret_cast<const ColumnTile*>(a.tiles);
  const auto* entries = static_cast<const Entry*>(a.entries);
  const Run* runs = runs_of(a.runs);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t per_image = a.tile_count * a.group_count;
  const int64_t most_channels = (a.channels + a.block_count - 1) / a.block_count;
  float* const lines = worker.scratch;
  float* const sums = lines + most_channels * a.line_count * kLanes;
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, number = unit % per_image / a.group_count, group = unit % a.group_count;
      const int64_t first = a.out_channels * group / a.group_count, last = a.out_channels * (group + 1) / a.group_count;
      const ColumnTile& tile = tiles[number];
      const ColumnFunction add_up = column_sums_for(tile.vectors);
      for (int64_t block = 0; block < a.block_count; ++block) {
        const int64_t channel = a.channels * block / a.block_count, channels = a.channels * (block + 1) / a.block_count - channel;
        copy_lines(a, a.x + image * a.x_image + channel * a.x_channel + tile.x, channels, tile.vectors, lines);
        ColumnSums t;
        t.x = lines, t.entries = entries, t.turns = a.turns, t.columns = a.column_count;
        t.first = block == 0, t.sums = sums;
        t.starts = a.starts + (block * a.out_channels + first) * a.column_count;
        for (int64_t k = first; k < last; ++k, t.starts += a.column_count, t.sums += a.most_vectors * kLanes) {
          t.bias = a.bias ? a.bias[k] : 0.0f;
          add_up(t);
          if (block + 1 < a.block_count) continue;
          float* plane = a.y + image * a.y_image + k * a.y_channel;
          const float* residual = a.residual ? a.residual + image * a.r_image + k * a.r_channel : nullptr;
          finish_runs(t.sums, runs + tile.first_run, tile.runs, clamp, residual, plane, a.masks, a.activation, a.act_a, a.act_b);
          if (number == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
        }
      }
    }
  });
}
