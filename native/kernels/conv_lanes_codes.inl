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

// Four outputs whose sums lie pixel by pixel, without gaps, `step` from one output to the next: they end by whole vectors, in
// `room` (for twice as many vectors, and one), and go out row by row. A run's x offset is that of its sums; its y offset, and
// the place, count from the first run.
inline void finish_gapless(const int32_t* sums, int64_t step, int64_t vectors, const CodePlace& place, const Run* runs, int64_t count, const uint32_t* masks, int32_t* room) {
  static constexpr uint32_t all = ~0u;
  const Rounding& r = *place.rounding;
  const auto* residual = static_cast<const int32_t*>(place.residual);
  int32_t* const other = room + vectors * kLanes;
  const int64_t row = count > 1 ? runs[1].x - runs->x : vectors * kLanes;
  for (const Run* run = runs; run != runs + count && residual; ++run)
    for (int64_t at = 0; at < row; at += kLanes)
      store_words(other + run->x - runs->x + at, load_words(residual + run->y - runs->y + at));
  for (int64_t at = 0; at < vectors * kLanes; at += kLanes) {
    Ints four[4][1];
    each<4>(DOVETAIL_LAMBDA(int i) { four[i][0] = load_words(sums + i * step + at); });
    finish_words<1>(four, place.multiplier, r, residual ? other + at : nullptr, room + at, &all, 0, kLanes);
  }
  for (const Run* run = runs; run != runs + count; ++run) {
    auto* y = static_cast<int32_t*>(place.y) + run->y - runs->y;
    for (int at = 0; at < run->pixels; at += kLanes)
      put_words(y + at, keep(load_words(room + run->x - runs->x + at), masks[run->mask + at / kLanes], splat_word(r.halo)), run->pixels - at);
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
