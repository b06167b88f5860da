// y[o, p] = clamp(sum over c, t of w[o, c, t] x[c, p + tap t] + bias[o] + residual[o, p])
//
// Pixels in lanes, K outputs by P vectors in registers. Planes have halos, so a tap is an address offset and a run of
// pixels goes straight on across row ends. Loops: unit (image, run, output block) > piece of P vectors > channel > tap
// > output > vector. One tap: P loads and K broadcasts feed K * P multiply-adds. The x of a run (channels * taps' rows)
// stays in L1/L2 over the output blocks; the weights of a block are read in order.
// Groups: a block belongs to one group and reads its channels only, wherever they lie; depthwise is K = 1.

struct Block {
  int32_t group, first, outputs, weight;
};

struct Tile {
  const float *x, *weight, *bias, *residual;
  float* y;
  const int64_t* planes;
  const int32_t *places, *taps;
  const uint32_t* masks;
  int64_t taps_count, channels, x_channel, y_channel, r_channel;
  int first, pixels;
};

template <int K, int P>
void conv_tile(const Tile& t, const Clamp& clamp) {
  Vec acc[K][P];
  each<K>(DOVETAIL_LAMBDA(int k) {
    const Vec start = t.bias ? splat(t.bias[k]) : splat(0.0f);
    each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = start; });
  });
  const float* w = t.weight;
  const float* const start = t.x + t.first * kLanes;
  const auto add_tap = DOVETAIL_LAMBDA(const float* p) {
    __builtin_prefetch(w + kAhead, 0, 2);
    Vec v[P];
    each<P>(DOVETAIL_LAMBDA(int j) { v[j] = load(p + j * kLanes); });
    each<K>(DOVETAIL_LAMBDA(int k) {
      const Vec weight = splat(w[k]);
      each<P>(DOVETAIL_LAMBDA(int j) { acc[k][j] = fma(weight, v[j], acc[k][j]); });
    });
    w += K;
  };
  if (t.taps_count == 1 && !t.planes) {  // as in conv_lanes.inl
    const float* next = start + t.taps[0];
    for (const float* end = w + t.channels * K; w != end; next += t.x_channel) add_tap(next);
  } else {
    const float* next = start;
    for (int64_t c = 0; c < t.channels; ++c, next += t.x_channel) {
      const float* x = t.planes ? start + t.planes[c] : next;
      for (int64_t i = 0; i < t.taps_count; ++i) add_tap(x + t.taps[i]);
    }
  }
  each<K>(DOVETAIL_LAMBDA(int k) {
    const int64_t place = t.places[k];
    finish<P>(acc[k], clamp, t.residual ? t.residual + place * t.r_channel : nullptr, t.y + place * t.y_channel, t.masks, t.first, t.pixels);
  });
}

using TileFunction = void (*)(const Tile&, const Clamp&);

// Vectors per tile such that K * P accumulators, P pixels and a weight fit the registers (32 or 16).
constexpr int kRegisters = kLanes == 16 ? 32 : 16;
constexpr int kMostOutputs = kLanes == 16 ? 8 : 6;
constexpr int kMostVectors = 12;
constexpr int vectors_for(int outputs) {
  const int p = (kRegisters - 1) / (outputs + 1);
  return p < 1 ? 1 : p > kMostVectors ? kMostVectors : p;
}

template <int K>
TileFunction conv_tile_of(int vectors) {
  constexpr int most = vectors_for(K);
  switch (vectors) {
#define DOVETAIL_CASE(P) case P: return conv_tile<K, (P <= most ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4) DOVETAIL_CASE(5) DOVETAIL_CASE(6)
    DOVETAIL_CASE(7) DOVETAIL_CASE(8) DOVETAIL_CASE(9) DOVETAIL_CASE(10) DOVETAIL_CASE(11) DOVETAIL_CASE(12)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

inline TileFunction conv_tile_for(int outputs, int vectors) {
  switch (outputs) {
    case 1: return conv_tile_of<1>(vectors);
    case 2: return conv_tile_of<2>(vectors);
    case 3: return conv_tile_of<3>(vectors);
    case 4: return conv_tile_of<4>(vectors);
    case 5: return conv_tile_of<5>(vectors);
    case 6: return conv_tile_of<6>(vectors);
    case 7: return conv_tile_of<kLanes == 16 ? 7 : 1>(vectors);
    default: return conv_tile_of<kLanes == 16 ? 8 : 1>(vectors);
  }
}

inline int most_vectors(int outputs) {
  constexpr int most[] = {1, vectors_for(1), vectors_for(2), vectors_for(3), vectors_for(4), vectors_for(5), vectors_for(6), vectors_for(7), vectors_for(8)};
  return most[outputs];
}

inline void conv_block(const ConvDenseArgs& a, const Block& block, const Run& run, int64_t image, const Clamp& clamp) {
  Tile t;
  t.x = a.x + image * a.x_image + (a.planes ? 0 : block.group * a.channels * a.x_channel) + run.x;
  t.y = a.y + image * a.y_image + run.y;
  t.residual = a.residual ? a.residual + image * a.r_image + run.y : nullptr;
  t.planes = a.planes ? a.planes + block.group * a.channels : nullptr, t.places = a.places + block.first;
  t.weight = a.weight + block.weight;
  t.bias = a.bias ? a.bias + block.first : nullptr;
  t.taps = a.taps, t.taps_count = a.tap_count, t.channels = a.channels;
  t.x_channel = a.x_channel, t.y_channel = a.y_channel, t.r_channel = a.r_channel;
  t.masks = a.masks + run.mask, t.pixels = run.pixels;
  even_pieces(vectors_of(run), most_vectors(block.outputs), [&](int first, int count) {
    t.first = first;
    conv_tile_for(block.outputs, count)(t, clamp);
  });
  if (!clamp.exact)
    for (int k = 0; k < block.outputs; ++k)
      activate_run(t.y + t.places[k] * a.y_channel, run, t.masks, static_cast<Activation>(a.activation), a.act_a, a.act_b);
}

void conv2d_dense_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvDenseArgs*>(arguments);
  const auto* blocks = reinterpret_cast<const Block*>(a.blocks);
  const Run* runs = runs_of(a.runs);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t per_image = a.block_count * a.run_count, units = a.images * per_image;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, rest = unit % per_image;
      const int64_t b = a.blocks_outer ? rest / a.run_count : rest % a.block_count;
      const int64_t r = a.blocks_outer ? rest % a.run_count : rest / a.block_count;
      const Block& block = blocks[b];
      conv_block(a, block, runs[r], image, clamp);
      if (r == 0 && a.lead)
        for (int64_t k = block.first; k < block.first + block.outputs; ++k)
          zero_lead(a.y + image * a.y_image + a.places[k] * a.y_channel, a.y_channel, a.lead, a.places[k] + 1 == a.out_channels);
    }
  });
}
