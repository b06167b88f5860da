// Shared kernel bases, conv-first (PENNI): maps[c, b] = x[c] * basis b, then y[o] = clamp(sum of a[o, c, b] maps[c, b]).
//
// A unit is one run of pixels of one image: its maps (used channels * bases * run, kept in the thread's scratch and so
// in L2) are computed once and combined by all outputs. Stage one holds one channel's bases by P vectors in registers;
// stage two is the sparse kernel over aligned scratch. Nothing is recomputed: the second stage is pointwise.

// A vector is kLanes pixels in a row, or (row > 0) half of them in each of two rows.
inline Vec load_pixels(const float* p, int j, int64_t row) {
  return row ? load_halves(p + 2 * j * row, p + (2 * j + 1) * row) : load(p + j * kLanes);
}

template <int B, int P, bool Rows>
void basis_tile(const float* x, int64_t row, const float* bases, const int32_t* taps, int64_t taps_count, int64_t stride, float* maps, int64_t map_stride) {
  Vec acc[B][P];
  each<B>(DOVETAIL_LAMBDA(int b) { each<P>(DOVETAIL_LAMBDA(int j) { acc[b][j] = splat(0.0f); }); });
  for (int64_t i = 0; i < taps_count; ++i, bases += stride) {
    const float* p = x + taps[i];
    Vec v[P];
    each<P>(DOVETAIL_LAMBDA(int j) { v[j] = load_pixels(p, j, Rows ? row : 0); });
    each<B>(DOVETAIL_LAMBDA(int b) {
      const Vec w = splat(bases[b]);
      each<P>(DOVETAIL_LAMBDA(int j) { acc[b][j] = fma(w, v[j], acc[b][j]); });
    });
  }
  each<B>(DOVETAIL_LAMBDA(int b) {
    each<P>(DOVETAIL_LAMBDA(int j) { store(maps + b * map_stride + j * kLanes, acc[b][j]); });
  });
}

using BasisFunction = void (*)(const float*, int64_t, const float*, const int32_t*, int64_t, int64_t, float*, int64_t);
constexpr int kBasisVectors = kLanes == 16 ? 4 : 2;

template <int B, bool Rows>
BasisFunction basis_tile_of(int vectors) {
  static const BasisFunction functions[] = {
      nullptr, basis_tile<B, 1, Rows>, basis_tile<B, 2, Rows>, basis_tile<B, 3, Rows>, basis_tile<B, 4, Rows>};
  return functions[vectors];
}

template <bool Rows>
BasisFunction basis_tile_for(int bases, int vectors) {
  switch (bases) {
    case 1: return basis_tile_of<1, Rows>(vectors);
    case 2: return basis_tile_of<2, Rows>(vectors);
    case 3: return basis_tile_of<3, Rows>(vectors);
    case 4: return basis_tile_of<4, Rows>(vectors);
    default: return basis_tile_of<5, Rows>(vectors);
  }
}

void conv2d_kernel_basis_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvBasisArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const auto* entries = static_cast<const Entry*>(a.entries);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t units = a.images * a.run_count;
  for_units(worker, units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.run_count, r = unit % a.run_count;
      const Run& run = runs[r];
      const float* x = a.x + image * a.x_image + run.x;
      for (int64_t u = 0; u < a.used_count; ++u)
        for (int64_t b = 0; b < a.base_count; b += 5) {
          const int bases = static_cast<int>(a.base_count - b < 5 ? a.base_count - b : 5);
          float* maps = worker.scratch + (u * a.base_count + b) * a.map_stride;
          even_pieces(vectors_of(run), kBasisVectors, [&](int first, int count) {
            const float* at = x + a.used[u] + (a.x_row ? 2 * first * a.x_row : first * kLanes);
            (a.x_row ? basis_tile_for<true> : basis_tile_for<false>)(bases, count)(at, a.x_row, a.bases + b, a.taps, a.tap_count, a.base_count, maps + first * kLanes, a.map_stride);
          });
        }
      for (int64_t k = 0; k < a.out_channels; ++k) {
        float* plane = a.y + image * a.y_image + k * a.y_channel;
        SparseRow t;
        t.x = worker.scratch;
        t.y = plane + run.y;
        t.residual = a.residual ? a.residual + image * a.r_image + k * a.r_channel + run.y : nullptr;
        t.begin = entries + a.starts[k], t.end = entries + a.starts[k + 1];
        t.masks = a.masks + run.mask;
        t.bias = a.bias ? a.bias[k] : 0.0f;
        t.row = a.y_row, t.chains = a.chains;
        sparse_run(t, run, clamp, a.activation, a.act_a, a.act_b);
        if (a.y_row && r + 1 == a.run_count)
          for (int64_t i = run.y + 2 * vectors_of(run) * a.y_row; i < a.y_channel - a.lead; ++i) plane[i] = 0.0f;
        if (r == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
      }
    }
  });
}
