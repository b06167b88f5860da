// The dense convolution for small maps: outputs in lanes, pixels broadcast.
//
// V vectors of outputs by P pixels in registers; one tap: V loads of weights and P broadcasts feed V * P multiply-adds.
// Pixels are a list of offsets, so none is spent on the halo, however small the map. Loops: unit (image, block of
// outputs, group of pixels) > channel > tap > pixel > vector. The results are turned around on their way out.

struct Pixel {
  int32_t x, y, zeros;  // offsets, and how many zeros of the halo follow it
};

constexpr int kLaneVectors = kLanes == 16 ? 4 : 2;
constexpr int kLanePixels = kLanes == 16 ? 8 : 5;
constexpr int lane_pixels(int vectors) { return vectors == 4 ? 6 : kLanePixels; }

struct LaneTile {
  const float *x, *weight, *bias, *residual;
  float* y;
  const Pixel* pixels;
  const int32_t* taps;
  int64_t taps_count, channels, x_channel, y_channel, r_channel, outputs;  // outputs: real ones of this block
};

template <int V, int P>
void lane_tile(const LaneTile& t, const Clamp& clamp, Activation kind, float a, float b) {
  Vec acc[P][V];
  each<V>(DOVETAIL_LAMBDA(int v) {
    const Vec start = t.bias ? load(t.bias + v * kLanes) : splat(0.0f);
    each<P>(DOVETAIL_LAMBDA(int p) { acc[p][v] = start; });
  });
  int64_t at[P];
  each<P>(DOVETAIL_LAMBDA(int p) { at[p] = t.pixels[p].x; });
  const float *x = t.x, *w = t.weight;
  for (int64_t c = 0; c < t.channels; ++c, x += t.x_channel) {
    for (int64_t i = 0; i < t.taps_count; ++i, w += V * kLanes) {
      const float* tap = x + t.taps[i];
      Vec weights[V];
      each<V>(DOVETAIL_LAMBDA(int v) { weights[v] = load(w + v * kLanes); });
      each<P>(DOVETAIL_LAMBDA(int p) {
        const Vec pixel = splat(tap[at[p]]);
        each<V>(DOVETAIL_LAMBDA(int v) { acc[p][v] = fma(weights[v], pixel, acc[p][v]); });
      });
    }
  }
  alignas(64) float turned[P][V * kLanes];
  each<P>(DOVETAIL_LAMBDA(int p) {
    each<V>(DOVETAIL_LAMBDA(int v) { store(&turned[p][v * kLanes], acc[p][v]); });
  });
  for (int p = 0; p < P; ++p) {
    const int64_t place = t.pixels[p].y;
    if (t.residual)
      for (int64_t o = 0; o < t.outputs; ++o) turned[p][o] += t.residual[o * t.r_channel + place];
    for (int v = 0; v < V; ++v) {
      const Vec sum = load(&turned[p][v * kLanes]);
      store(&turned[p][v * kLanes], clamp.exact ? bounded(sum, clamp) : activate(sum, kind, a, b));
    }
    for (int64_t o = 0; o < t.outputs; ++o) t.y[o * t.y_channel + place] = turned[p][o];
    for (int64_t o = 0; o < t.outputs && t.pixels[p].zeros; ++o)
      for (int64_t z = 1; z <= t.pixels[p].zeros; ++z) t.y[o * t.y_channel + place + z] = 0.0f;
  }
}

using LaneFunction = void (*)(const LaneTile&, const Clamp&, Activation, float, float);

template <int V>
LaneFunction lane_tile_of(int pixels) {
  constexpr int most = lane_pixels(V);
  switch (pixels) {
#define DOVETAIL_CASE(P) case P: return lane_tile<V, (P <= most ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4)
    DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7) DOVETAIL_CASE(8)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

inline LaneFunction lane_tile_for(int vectors, int pixels) {
  switch (vectors) {
    case 1: return lane_tile_of<1>(pixels);
    case 2: return lane_tile_of<2>(pixels);
    case 3: return lane_tile_of<kLaneVectors < 3 ? 1 : 3>(pixels);
    default: return lane_tile_of<kLaneVectors < 4 ? 1 : 4>(pixels);
  }
}

void conv2d_lanes_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvLanesArgs*>(arguments);
  const auto* pixels = reinterpret_cast<const Pixel*>(a.pixels);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  const int64_t vectors = (a.out_channels + kLanes - 1) / kLanes;
  const int64_t blocks = (vectors + kLaneVectors - 1) / kLaneVectors;
  const int64_t groups = (a.pixel_count + kLanePixels - 1) / kLanePixels, units = a.images * blocks * groups;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / (blocks * groups), block = unit / groups % blocks, group = unit % groups;
      const int64_t first = block * kLaneVectors, output = first * kLanes;
      const int mine = static_cast<int>(vectors - first < kLaneVectors ? vectors - first : kLaneVectors);
      LaneTile t;
      t.x = a.x + image * a.x_image;
      t.y = a.y + image * a.y_image + output * a.y_channel;
      t.residual = a.residual ? a.residual + image * a.r_image + output * a.r_channel : nullptr;
      t.weight = a.weight + output * a.channels * a.tap_count;
      t.bias = a.bias ? a.bias + output : nullptr;
      t.taps = a.taps, t.taps_count = a.tap_count, t.channels = a.channels;
      t.x_channel = a.x_channel, t.y_channel = a.y_channel, t.r_channel = a.r_channel;
      t.outputs = a.out_channels - output < mine * kLanes ? a.out_channels - output : mine * kLanes;
      if (group == 0)
        for (int64_t o = 0; o < t.outputs; ++o)
          zero_lead(t.y + o * a.y_channel, a.y_channel, a.lead, output + o + 1 == a.out_channels);
      const int64_t from = a.pixel_count * group / groups, to = a.pixel_count * (group + 1) / groups;
      even_pieces(static_cast<int>(to - from), lane_pixels(mine), [&](int start, int count) {
        t.pixels = pixels + from + start;
        lane_tile_for(mine, count)(t, clamp, static_cast<Activation>(a.activation), a.act_a, a.act_b);
      });
    }
  });
}
