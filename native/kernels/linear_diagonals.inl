// Blocks of `size` outputs by `size` inputs that keep one diagonal each, shifted by a number of its own.
//
// Output c of block row R reads input (c + k) mod size of every block, k = k(R, column). With each block of x twice in a row
// that is input c + k. Small blocks: block rows in lanes, up to 8 outputs c in registers; the inputs c, c + 1, … are one vector
// or two, out of which every lane picks the one at its k, whatever c is. Large ones: outputs c in lanes, up to 8 vectors of
// them, of one block row or of several, and the inputs of each are a load from its c + k on. Units: (row of x, block of sums); each thread doubles the blocks of its row.

struct DiagonalBlock {
  int32_t first, vectors, output, shifts;  // first vector of sums, how many, c of the first, where their shifts lie
};

inline void double_blocks(const float* x, int64_t inputs, int64_t columns, int64_t size, float* twice) {
  for (int64_t block = 0; block < columns; ++block, twice += 2 * size)
    for (int64_t d = 0; d < size; ++d) {
      const int64_t from = block * size + d;
      twice[d] = twice[size + d] = from < inputs ? x[from] : 0.0f;
    }
}

// Block rows in lanes, outputs c .. c + C - 1.
template <int C, bool Two>
void diagonal_rows(const float* w, const float* x, const uint8_t* shifts, int64_t columns, int64_t step, float* sums) {
  Vec acc[C];
  each<C>(DOVETAIL_LAMBDA(int c) { acc[c] = splat(0.0f); });
  for (int64_t block = 0; block < columns; ++block, w += C * kLanes, x += step, shifts += kLanes) {
    const Ints from = expand_bytes(shifts);
    each<C>(DOVETAIL_LAMBDA(int c) {
      const Vec numbers = Two ? pick_of_two(load(x + c), load(x + c + kLanes), from) : pick_lanes(load(x + c), from);
      __builtin_prefetch(w + c * kLanes + kAhead, 0, 2);
      acc[c] = fma(numbers, load(w + c * kLanes), acc[c]);
    });
  }
  each<C>(DOVETAIL_LAMBDA(int c) { store(sums + c * kLanes, acc[c]); });
}

// V vectors of outputs, of whatever block rows, each with its own shifts.
template <int V>
void diagonal_outputs(const float* w, const float* x, const uint16_t* shifts, int64_t columns, int64_t step, float* sums) {
  Vec acc[V];
  each<V>(DOVETAIL_LAMBDA(int v) { acc[v] = splat(0.0f); });
  for (int64_t block = 0; block < columns; ++block, w += V * kLanes, x += step, shifts += V)
    each<V>(DOVETAIL_LAMBDA(int v) {
      __builtin_prefetch(w + v * kLanes + kAhead, 0, 2);
      acc[v] = fma(load(x + shifts[v]), load(w + v * kLanes), acc[v]);
    });
  each<V>(DOVETAIL_LAMBDA(int v) { store(sums + v * kLanes, acc[v]); });
}

template <int N = 8>
void some_diagonals(const LinearDiagonalsArgs& a, const DiagonalBlock& block, const float* twice, float* sums) {
  if constexpr (N > 1)
    if (block.vectors < N) return some_diagonals<N - 1>(a, block, twice, sums);
  const float *w = a.w + block.first * a.columns * kLanes, *x = twice + block.output;
  const int64_t step = 2 * a.size;
  if (!a.rows_in_lanes) return diagonal_outputs<N>(w, x, static_cast<const uint16_t*>(a.shifts) + block.shifts, a.columns, step, sums);
  const auto* shifts = static_cast<const uint8_t*>(a.shifts) + block.shifts;
  if (a.size <= kLanes) return diagonal_rows<N, false>(w, x, shifts, a.columns, step, sums);
  diagonal_rows<N, true>(w, x, shifts, a.columns, step, sums);
}

void linear_diagonals_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const LinearDiagonalsArgs*>(arguments);
  const auto* blocks = reinterpret_cast<const DiagonalBlock*>(a.blocks);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t units = a.rows * a.block_count;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    int64_t doubled = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / a.block_count;
      const DiagonalBlock& block = blocks[unit % a.block_count];
      if (doubled != row) double_blocks(a.x + row * a.x_row, a.inputs, a.columns, a.size, worker.scratch);
      doubled = row;
      alignas(64) float sums[8 * kLanes];
      some_diagonals(a, block, worker.scratch, sums);
      finish_places(a, nullptr, clamp, block.first, block.vectors, row, sums);
    }
  });
}
