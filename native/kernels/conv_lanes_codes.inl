// The convolution of small maps over codes: as conv_lanes.inl, with words of four channels. Outputs in lanes, pixels
// broadcast; the codes of a pixel's outputs lie side by side in registers and leave as whole words.

struct LaneCodeTile {
  const int32_t *x, *weight, *bias;
  const float* multiplier;
  const void* residual;
  void* y;
  const Pixel* pixels;
  const int32_t* taps;
  int64_t taps_count, channels, x_channel, y_channel, r_channel, outputs;  // outputs: real ones of this block
};

// One pixel's outputs of V vectors, in words.
template <int V>
inline void lane_words(const LaneCodeTile& t, const Rounding& r, const Ints (&acc)[V], const Pixel& pixel) {
  const int64_t words = (t.outputs + 3) / 4;
  const auto* residual = static_cast<const int32_t*>(t.residual);
  auto* y = static_cast<int32_t*>(t.y);
  alignas(64) int32_t other[V * kLanes / 4] = {}, word[V * kLanes / 4];
  if (residual)
    for (int64_t o = 0; o < words; ++o) other[o] = residual[o * t.r_channel + pixel.y];
  for (int v = 0; v < V; ++v) {
    Vec s = mul(to_real(acc[v]), load(t.multiplier + v * kLanes));
    if (residual) {
      const Ints codes = expand_bytes(reinterpret_cast<const uint8_t*>(other + v * (kLanes / 4)));
      s = add(s, mul(to_real(sub(codes, r.r_zero)), r.ratio));
    }
    pack_bytes(reinterpret_cast<uint8_t*>(word + v * (kLanes / 4)), to_code(s, r.low, r.high, r.zero));
  }
  for (int64_t o = 0; o < words; ++o) y[o * t.y_channel + pixel.y] = word[o];
  for (int64_t o = 0; o < words && pixel.zeros; ++o)
    for (int64_t z = 1; z <= pixel.zeros; ++z) y[o * t.y_channel + pixel.y + z] = r.halo;
}

// The same in float32.
template <int V>
inline void lane_reals(const LaneCodeTile& t, const Rounding& r, const Ints (&acc)[V], const Pixel& pixel) {
  const auto* residual = static_cast<const float*>(t.residual);
  auto* y = static_cast<float*>(t.y);
  alignas(64) float turned[V * kLanes];
  for (int v = 0; v < V; ++v) store(turned + v * kLanes, mul(to_real(acc[v]), load(t.multiplier + v * kLanes)));
  if (residual)
    for (int64_t o = 0; o < t.outputs; ++o) turned[o] += residual[o * t.r_channel + pixel.y];
  for (int v = 0; v < V; ++v) {
    const Vec s = load(turned + v * kLanes);
    store(turned + v * kLanes, r.clamp.exact ? bounded(s, r.clamp) : activate(s, r.kind, r.a, r.b));
  }
  for (int64_t o = 0; o < t.outputs; ++o) {
    y[o * t.y_channel + pixel.y] = turned[o];
    for (int64_t z = 1; z <= pixel.zeros; ++z) y[o * t.y_channel + pixel.y + z] = 0.0f;
  }
}

template <int V, int P>
void lane_code_tile(const LaneCodeTile& t, const Rounding& r) {
  Ints acc[P][V];
  each<V>(DOVETAIL_LAMBDA(int v) {
    const Ints start = load_words(t.bias + v * kLanes);
    each<P>(DOVETAIL_LAMBDA(int p) { acc[p][v] = start; });
  });
  int64_t at[P];
  each<P>(DOVETAIL_LAMBDA(int p) { at[p] = t.pixels[p].x; });
  const int32_t *x = t.x, *w = t.weight;
  for (int64_t c = 0; c < t.channels; ++c, x += t.x_channel) {
    for (int64_t i = 0; i < t.taps_count; ++i, w += V * kLanes) {
      const int32_t* tap = x + t.taps[i];
      Ints weights[V];
      each<V>(DOVETAIL_LAMBDA(int v) { weights[v] = load_words(w + v * kLanes); });
      each<P>(DOVETAIL_LAMBDA(int p) {
        const Ints pixel = splat_word(tap[at[p]]);
        each<V>(DOVETAIL_LAMBDA(int v) { acc[p][v] = dot(acc[p][v], pixel, weights[v]); });
      });
    }
  }
  for (int p = 0; p < P; ++p) {
    if (r.real) {
      lane_reals<V>(t, r, acc[p], t.pixels[p]);
    } else {
      lane_words<V>(t, r, acc[p], t.pixels[p]);
    }
  }
}

using LaneCodeFunction = void (*)(const LaneCodeTile&, const Rounding&);

template <int V>
LaneCodeFunction lane_code_tile_of(int pixels) {
  constexpr int most = lane_pixels(V);
  switch (pixels) {
#define DOVETAIL_CASE(P) case P: return lane_code_tile<V, (P <= most ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4)
    DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7) DOVETAIL_CASE(8)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

inline LaneCodeFunction lane_code_tile_for(int vectors, int pixels) {
  switch (vectors) {
    case 1: return lane_code_tile_of<1>(pixels);
    case 2: return lane_code_tile_of<2>(pixels);
    case 3: return lane_code_tile_of<kLaneVectors < 3 ? 1 : 3>(pixels);
    default: return lane_code_tile_of<kLaneVectors < 4 ? 1 : 4>(pixels);
  }
}

void conv2d_lanes_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvLanesCodesArgs*>(arguments);
  const auto* pixels = reinterpret_cast<const Pixel*>(a.pixels);
  const Rounding rounding = rounding_of(a);
  const int64_t vectors = (a.out_channels + kLanes - 1) / kLanes;
  const int64_t blocks = (vectors + kLaneVectors - 1) / kLaneVectors;
  const int64_t groups = (a.pixel_count + kLanePixels - 1) / kLanePixels, units = a.images * blocks * groups;
  const int64_t step = rounding.real ? 1 : 4, planes = (a.out_channels + step - 1) / step;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / (blocks * groups), block = unit / groups % blocks, group = unit % groups;
      const int64_t first = block * kLaneVectors, output = first * kLanes;
      const int mine = static_cast<int>(vectors - first < kLaneVectors ? vectors - first : kLaneVectors);
      LaneCodeTile t;
      t.x = a.x + image * a.x_image;
      auto* y = static_cast<int32_t*>(a.y) + image * a.y_image;
      t.y = y + output / step * a.y_channel;
      t.residual = a.residual ? static_cast<const int32_t*>(a.residual) + image * a.r_image + output / step * a.r_channel : nullptr;
      t.weight = a.weight + output * a.channels * a.tap_count;
      t.bias = a.bias + output, t.multiplier = a.multiplier + output;
      t.taps = a.taps, t.taps_count = a.tap_count, t.channels = a.channels;
      t.x_channel = a.x_channel, t.y_channel = a.y_channel, t.r_channel = a.r_channel;
      t.outputs = a.out_channels - output < mine * kLanes ? a.out_channels - output : mine * kLanes;
      if (group == 0 && a.lead)
        for (int64_t plane = output / step; plane < planes && plane < (output + mine * kLanes) / step; ++plane)
          fill_lead(y + plane * a.y_channel, a.y_channel, a.lead, plane + 1 == planes, rounding.halo);
      const int64_t from = a.pixel_count * group / groups, to = a.pixel_count * (group + 1) / groups;
      even_pieces(static_cast<int>(to - from), lane_pixels(mine), [&](int start, int count) {
        t.pixels = pixels + from + start;
        lane_code_tile_for(mine, count)(t, rounding);
      });
    }
  });
}
