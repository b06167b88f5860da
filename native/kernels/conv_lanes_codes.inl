// The convolution of small maps over codes: as conv_lanes.inl, with words of four channels.

struct CodeProducts {
  using Element = int32_t;
  using Lanes = Ints;
  static Ints load_lanes(const int32_t* p) { return load_words(p); }
  static void store_lanes(int32_t* p, Ints v) { store_words(p, v); }
  static Ints all(int32_t x) { return splat_word(x); }
  static Ints product(Ints sum, Ints pixel, Ints weight) { return dot(sum, pixel, weight); }
};

// `sums` holds `pixels` rows of V vectors; `turned` gets a row of `stride` pixels for each output.
inline void turn(const float* sums, int vectors, int64_t pixels, float* turned, int64_t stride) {
  for (int v = 0; v < vectors; ++v)
    for (int64_t p = 0; p < pixels; p += kLanes) {
      Vec block[kLanes];
      each<kLanes>(DOVETAIL_LAMBDA(int i) { block[i] = load(sums + ((p + i) * vectors + v) * kLanes); });
      transpose(block);
      each<kLanes>(DOVETAIL_LAMBDA(int i) { store(turned + (v * kLanes + i) * stride + p, block[i]); });
    }
}

void conv2d_lanes_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const ConvLanesCodesArgs*>(arguments);
  const Run* runs = runs_of(a.runs);
  const Rounding rounding = rounding_of(a);
  for_lane_units<CodeProducts>(a, worker, [&](int64_t image, int64_t output, int vectors, const Segment& s, int64_t number, const float* sums) {
    float* turned = worker.scratch + a.most_pixels * vectors * kLanes;
    turn(sums, vectors, s.pixels, turned, a.most_pixels);
    const int64_t end = output + vectors * kLanes < a.out_channels ? output + vectors * kLanes : a.out_channels;
    const int64_t pixel_vectors = (s.pixels + kLanes - 1) / kLanes;
    auto* const room = reinterpret_cast<int32_t*>(turned + vectors * kLanes * a.most_pixels);
    for (int64_t k = output; k < end; k += 4, turned += 4 * a.most_pixels) {
      const Run* const first = runs + s.first_run;
      if (s.runs > 1 && !rounding.real) {
        const CodePlace place = place_of(a, rounding, image, k, 4, *first);
        finish_gapless(reinterpret_cast<int32_t*>(turned), a.most_pixels, pixel_vectors, place, first, s.runs, a.masks, room);
        end_place(a, place, *first, image, k, 4, number == 0);
        continue;
      }
      for (const Run* run = runs + s.first_run; run != runs + s.first_run + s.runs; ++run) {
        const CodePlace place = place_of(a, rounding, image, k, 4, *run);
        for (int j = 0; j < vectors_of(*run); ++j) {
          Ints sums[4][1];
          each<4>(DOVETAIL_LAMBDA(int i) { sums[i][0] = load_words(turned + i * a.most_pixels + run->x - s.first_pixel + j * kLanes); });
          finish_four<1>(sums, 0, place, j);
        }
        end_place(a, place, *run, image, k, 4, number == 0 && run == runs + s.first_run);
      }
    }
  });
}
