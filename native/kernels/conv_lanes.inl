// The dense convolution for small maps: outputs in lanes, pixels broadcast.
//
// V vectors of outputs by P pixels in registers; one tap: V loads of weights and P broadcasts feed V * P multiply-adds.
// Pixels are a list of offsets, so none is spent on the halo, however small the map. Loops: unit (image, block of
// outputs, segment of rows) > chunk of channels whose weights stay in L2 > P pixels > channel > tap > pixel > vector.
// Between chunks the sums lie in scratch, pixel by pixel; in the end they are turned around as they are stored. While one
// chunk is multiplied the next is fetched, so that weights which come from memory keep nobody waiting.

// `runs` from `first_run` on, and the pixels that they hold.
struct Segment {
  int32_t first_run, runs, first_pixel, pixels;
};

struct LaneBlock {
  int32_t first, vectors;
};

constexpr int kLaneVectors = kLanes == 16 ? 4 : 2;
constexpr int kLanePixels = kLanes == 16 ? 8 : 5;
constexpr int64_t kLaneWeights = 1 << 16;  // elements of a block's chunk: 256 KB
constexpr int lane_pixels(int vectors) { return vectors == 4 ? 6 : kLanePixels; }

struct RealProducts {
  using Element = float;
  using Lanes = Vec;
  static Vec load_lanes(const float* p) { return load(p); }
  static void store_lanes(float* p, Vec v) { store(p, v); }
  static Vec all(float x) { return splat(x); }
  static Vec product(Vec sum, Vec pixel, Vec weight) { return fma(weight, pixel, sum); }
};

template <class Op>
struct LaneTile {
  const typename Op::Element *x, *weight, *bias;  // bias: null once there are sums
  typename Op::Element* sums;
  const typename Op::Element* ahead;  // to fetch, `ahead_step` with every tap
  int64_t ahead_step;
  const int32_t *pixels, *taps;
  int64_t taps_count, channels, x_channel;
};

template <class Op, int V, int P>
void lane_tile(const LaneTile<Op>& t) {
  typename Op::Lanes acc[P][V];
  each<V>(DOVETAIL_LAMBDA(int v) {
    each<P>(DOVETAIL_LAMBDA(int p) { acc[p][v] = Op::load_lanes(t.bias ? t.bias + v * kLanes : t.sums + (p * V + v) * kLanes); });
  });
  int64_t at[P];
  each<P>(DOVETAIL_LAMBDA(int p) { at[p] = t.pixels[p]; });
  const auto *x = t.x, *w = t.weight, *ahead = t.ahead;
  const auto add_tap = DOVETAIL_LAMBDA(const typename Op::Element* tap) {
    __builtin_prefetch(ahead, 0, 2);
    if constexpr (V * kLanes > 16) __builtin_prefetch(ahead + 16, 0, 2);
    typename Op::Lanes weights[V];
    each<V>(DOVETAIL_LAMBDA(int v) { weights[v] = Op::load_lanes(w + v * kLanes); });
    each<P>(DOVETAIL_LAMBDA(int p) {
      const auto pixel = Op::all(tap[at[p]]);
      each<V>(DOVETAIL_LAMBDA(int v) { acc[p][v] = Op::product(acc[p][v], pixel, weights[v]); });
    });
    w += V * kLanes, ahead += t.ahead_step;
  };
  if (t.taps_count == 1) {  // a loop of its own: one within another leaves gcc too few registers, and takes a fifth more time
    x += t.taps[0];
    for (const auto* end = w + t.channels * V * kLanes; w != end; x += t.x_channel) add_tap(x);
  } else {
    for (int64_t c = 0; c < t.channels; ++c, x += t.x_channel)
      for (int64_t i = 0; i < t.taps_count; ++i) add_tap(x + t.taps[i]);
  }
  each<P>(DOVETAIL_LAMBDA(int p) {
    each<V>(DOVETAIL_LAMBDA(int v) { Op::store_lanes(t.sums + (p * V + v) * kLanes, acc[p][v]); });
  });
}

template <class Op>
using LaneFunction = void (*)(const LaneTile<Op>&);

template <class Op, int V>
LaneFunction<Op> lane_tile_of(int pixels) {
  constexpr int most = lane_pixels(V);
  switch (pixels) {
#define DOVETAIL_CASE(P) case P: return lane_tile<Op, V, (P <= most ? P : 1)>;
    DOVETAIL_CASE(1) DOVETAIL_CASE(2) DOVETAIL_CASE(3) DOVETAIL_CASE(4)
    DOVETAIL_CASE(5) DOVETAIL_CASE(6) DOVETAIL_CASE(7) DOVETAIL_CASE(8)
#undef DOVETAIL_CASE
  }
  return nullptr;
}

template <class Op>
inline LaneFunction<Op> lane_tile_for(int vectors, int pixels) {
  switch (vectors) {
    case 1: return lane_tile_of<Op, 1>(pixels);
    case 2: return lane_tile_of<Op, 2>(pixels);
    case 3: return lane_tile_of<Op, kLaneVectors < 3 ? 1 : 3>(pixels);
    default: return lane_tile_of<Op, kLaneVectors < 4 ? 1 : 4>(pixels);
  }
}

// All sums of a unit at a time; finish(image, first output, vectors, segment, its number, sums) ends them.
template <class Op, class Args, class Finish>
inline void for_lane_units(const Args& a, Worker& worker, const Finish& finish) {
  using Element = typename Op::Element;
  static_assert(sizeof(Element) == sizeof(float), "sums are turned around as floats");
  const auto* segments = reinterpret_cast<const Segment*>(a.segments);
  const auto* blocks = reinterpret_cast<const LaneBlock*>(a.blocks);
  const int64_t per_image = a.block_count * a.segment_count;
  float* const sums = worker.scratch;
  for_units(worker, a.images * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image, number = unit % a.segment_count;
      const Segment& s = segments[number];
      const LaneBlock& block = blocks[unit % per_image / a.segment_count];
      const int64_t output = block.first * kLanes;
      const int mine = block.vectors;
      const int64_t per_channel = a.tap_count * mine * kLanes;
      const int64_t chunks = (a.channels * per_channel + kLaneWeights - 1) / kLaneWeights;
      LaneTile<Op> t;
      t.taps = a.taps, t.taps_count = a.tap_count, t.x_channel = a.x_channel;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t channel = a.channels * chunk / chunks;
        t.channels = a.channels * (chunk + 1) / chunks - channel;
        t.x = a.x + image * a.x_image + channel * a.x_channel;
        t.weight = a.weight + output * a.channels * a.tap_count + channel * per_channel;
        t.bias = chunk == 0 ? a.bias + output : nullptr;
        t.ahead = t.weight + t.channels * per_channel;
        t.ahead_step = mine * kLanes / ((s.pixels + lane_pixels(mine) - 1) / lane_pixels(mine));
        even_pieces(s.pixels, lane_pixels(mine), [&](int first, int count) {
          t.pixels = a.pixels + s.first_pixel + first;
          t.sums = reinterpret_cast<Element*>(sums) + first * mine * kLanes;
          lane_tile_for<Op>(mine, count)(t);
          t.ahead += t.channels * a.tap_count * t.ahead_step;
        });
      }
      finish(image, output, mine, s, number, sums);
    }
  });
}

// Vector j of a run of a vector of outputs, of which there are `outputs`: turned around and stored.
inline void finish_lanes(const float* sums, int64_t step, const Clamp& clamp, const float* residual, int64_t r_channel, float* y, int64_t y_channel, int outputs, int lanes, uint32_t mask) {
  if (mask == 0) {  // nothing but zeros: there are no sums
    for (int i = 0; i < outputs; ++i) put(y + i * y_channel, splat(0.0f), lanes);
    return;
  }
  Vec block[kLanes];
  each<kLanes>(DOVETAIL_LAMBDA(int i) { block[i] = load(sums + i * step); });
  transpose(block);
  if (residual)
    each<kLanes>(DOVETAIL_LAMBDA(int i) {
      if (i < outputs) block[i] = add(block[i], load(residual + i * r_channel));
    });
  if (outputs == kLanes && lanes == kLanes) {
    each<kLanes>(DOVETAIL_LAMBDA(int i) { store(y + i * y_channel, keep(bounded(block[i], clamp), mask)); });
  } else {
    for (int i = 0; i < outputs; ++i) put(y + i * y_channel, keep(bounded(block[i], clamp), mask), lanes);
  }
}

void conv2d_lanes_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvLanesArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  for_lane_units<RealProducts>(a, worker, [&](int64_t image, int64_t output, int vectors, const Segment& s, int64_t number, const float* sums) {
    for (int v = 0; v < vectors; ++v, output += kLanes) {
      const int outputs = static_cast<int>(a.out_channels - output < kLanes ? a.out_channels - output : kLanes);
      float* plane = a.y + image * a.y_image + output * a.y_channel;
      const float* residual = a.residual ? a.residual + image * a.r_image + output * a.r_channel : nullptr;
      for (const Run* run = runs + s.first_run; run != runs + s.first_run + s.runs; ++run)
        for (int j = 0; j < vectors_of(*run); ++j) {
          const int64_t pixel = run->x - s.first_pixel + j * kLanes, at = run->y + j * kLanes;
          const int lanes = run->pixels - j * kLanes < kLanes ? run->pixels - j * kLanes : kLanes;
          finish_lanes(sums + (pixel * vectors + v) * kLanes, vectors * kLanes, clamp, residual ? residual + at : nullptr,
                       a.r_channel, plane + at, a.y_channel, outputs, lanes, a.masks[run->mask + j]);
        }
      for (int64_t k = output; k < output + outputs; ++k, plane += a.y_channel) {
        for (const Run* run = runs + s.first_run; run != runs + s.first_run + s.runs && !clamp.exact; ++run)
          activate_run(plane + run->y, *run, a.masks + run->mask, static_cast<Activation>(a.activation), a.act_a, a.act_b);
        if (number == 0) zero_lead(plane, a.y_channel, a.lead, k + 1 == a.out_channels);
      }
    }
  });
}
