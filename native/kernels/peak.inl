// What the machine can do at most: the roof under which the shape suite draws the convolutions.
//
// peak: 4 x 3 sums in registers, as the convolutions have them, over a small table that stays in L1: 12 multiply-adds (or
// dot products) for 7 loads. Operands come from memory, so that no compiler can take products out of the loop.
// stream: reads its part of the memory again and again, in 8 sums, so that only the loads count.

constexpr int kPeakRows = 4, kPeakVectors = 3, kPeakSteps = 16, kStreamVectors = 8;

void peak_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PeakArgs*>(arguments);
  const float* numbers = a.x + kPeakSteps * kPeakVectors * kLanes;
  for_units(worker, a.units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      Vec acc[kPeakRows][kPeakVectors];
      each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
        each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { acc[k][j] = splat(0.0f); });
      });
      for (int64_t round = 0; round < a.rounds; ++round) {
        for (int i = 0; i < kPeakSteps; ++i) {
          Vec v[kPeakVectors];
          each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { v[j] = load(a.x + (i * kPeakVectors + j) * kLanes); });
          each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
            const Vec w = splat(numbers[i * kPeakRows + k]);
            each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { acc[k][j] = fma(v[j], w, acc[k][j]); });
          });
        }
      }
      float* y = a.y + unit * kPeakRows * kPeakVectors * kLanes;
      each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
        each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { store(y + (k * kPeakVectors + j) * kLanes, acc[k][j]); });
      });
    }
  });
}

void peak_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PeakCodesArgs*>(arguments);
  const int32_t* words = a.x + kPeakSteps * kPeakVectors * kLanes;
  for_units(worker, a.units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      Ints acc[kPeakRows][kPeakVectors];
      each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
        each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { acc[k][j] = splat_word(0); });
      });
      for (int64_t round = 0; round < a.rounds; ++round) {
        for (int i = 0; i < kPeakSteps; ++i) {
          Ints v[kPeakVectors];
          each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { v[j] = load_words(a.x + (i * kPeakVectors + j) * kLanes); });
          each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
            const Ints w = splat_word(words[i * kPeakRows + k]);
            each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { acc[k][j] = dot(acc[k][j], v[j], w); });
          });
        }
      }
      int32_t* y = a.y + unit * kPeakRows * kPeakVectors * kLanes;
      each<kPeakRows>(DOVETAIL_LAMBDA(int k) {
        each<kPeakVectors>(DOVETAIL_LAMBDA(int j) { store_words(y + (k * kPeakVectors + j) * kLanes, acc[k][j]); });
      });
    }
  });
}

void stream_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const StreamArgs*>(arguments);
  constexpr int64_t step = kStreamVectors * kLanes;
  for_units(worker, a.units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const float* x = a.x + unit * a.size;
      Vec sums[kStreamVectors];
      each<kStreamVectors>(DOVETAIL_LAMBDA(int j) { sums[j] = splat(0.0f); });
      for (int64_t round = 0; round < a.rounds; ++round)
        for (int64_t i = 0; i + step <= a.size; i += step)
          each<kStreamVectors>(DOVETAIL_LAMBDA(int j) { sums[j] = add(sums[j], load(x + i + j * kLanes)); });
      float total = 0.0f;
      each<kStreamVectors>(DOVETAIL_LAMBDA(int j) { total += sum(sums[j]); });
      a.y[unit] = total;
    }
  });
}
