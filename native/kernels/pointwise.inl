// Copies, fills and pointwise functions over six nested dimensions with any strides. The innermost one is in lanes
// where its strides are one (or zero for a broadcast operand), else element by element.


inline int64_t rows_of(const int64_t* size) { return size[0] * size[1] * size[2] * size[3] * size[4]; }

// Walks the five outer dimensions in order, keeping the offsets of N operands: dividing once, then only adding.
template <int N>
struct Walk {
  const int64_t* size;
  const int64_t* stride[N];
  int64_t at[5], offset[N];

  Walk(int64_t row, const int64_t* sizes, const int64_t* const (&strides)[N]) : size(sizes) {
    for (int n = 0; n < N; ++n) stride[n] = strides[n], offset[n] = 0;
    for (int d = 4; d >= 0; --d) {
      at[d] = row % size[d];
      row /= size[d];
      for (int n = 0; n < N; ++n) offset[n] += at[d] * stride[n][d];
    }
  }

  void next() {
    for (int d = 4; d >= 0; --d) {
      for (int n = 0; n < N; ++n) offset[n] += stride[n][d];
      if (++at[d] < size[d]) return;
      at[d] = 0;
      for (int n = 0; n < N; ++n) offset[n] -= size[d] * stride[n][d];
    }
  }
};

inline void copy_row(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t n) {
  if (y_stride != 1 || x_stride < 1 || x_stride > 2) {
    for (int64_t i = 0; i < n; ++i) y[i * y_stride] = x[i * x_stride];
    return;
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    put(y + i, x_stride == 1 ? load_some(x + i, lanes) : load_evens(x + 2 * i, lanes), lanes);
  }
}

void copy_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const CopyArgs*>(arguments);
  const int64_t rows = rows_of(a.size);
  for_units(worker, rows, grain_of(rows, worker.threads), [&](int64_t begin, int64_t end) {
    Walk<2> walk(begin, a.size, {a.x_stride, a.y_stride});
    for (int64_t row = begin; row < end; ++row, walk.next())
      copy_row(a.x + walk.offset[0], a.x_stride[5], a.y + walk.offset[1], a.y_stride[5], a.size[5]);
  });
}

void fill_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const FillArgs*>(arguments);
  const int64_t rows = rows_of(a.size);
  const auto word = static_cast<int32_t>(a.word);
  for_units(worker, rows, grain_of(rows, worker.threads), [&](int64_t begin, int64_t end) {
    Walk<1> walk(begin, a.size, {a.y_stride});
    for (int64_t row = begin; row < end; ++row, walk.next()) {
      int32_t* y = a.y + walk.offset[0];
      for (int64_t i = 0; i < a.size[5]; ++i) y[i * a.y_stride[5]] = word;
    }
  });
}

// One operand of a pointwise row: a pointer with stride 0, 1 or more, or nothing.
struct Operand {
  const float* p;
  int64_t stride;
  Vec at(int64_t i, int lanes) const {
    if (stride == 0) return splat(*p);
    if (stride == 1) return lanes >= kLanes ? load(p + i) : load_first(p + i, lanes);
    alignas(64) float gathered[kLanes] = {};
    for (int j = 0; j < lanes && j < kLanes; ++j) gathered[j] = p[(i + j) * stride];
    return load(gathered);
  }
};

inline void put_strided(float* y, int64_t stride, int64_t i, Vec v, int lanes) {
  if (stride == 1) return put(y + i, v, lanes);
  alignas(64) float scattered[kLanes];
  store(scattered, v);
  for (int j = 0; j < lanes && j < kLanes; ++j) y[(i + j) * stride] = scattered[j];
}

void pointwise_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PointwiseArgs*>(arguments);
  const int64_t rows = rows_of(a.size), n = a.size[5];
  const Clamp clamp = clamp_of(a.activation, a.act_a, a.act_b);
  for_units(worker, rows, grain_of(rows, worker.threads), [&](int64_t begin, int64_t end) {
    Walk<4> walk(begin, a.size, {a.x_stride, a.r_stride, a.c_stride, a.y_stride});
    for (int64_t row = begin; row < end; ++row, walk.next()) {
      const Operand x{a.x + walk.offset[0], a.x_stride[5]};
      const int64_t channel = walk.offset[2];
      const Operand scale{a.scale ? a.scale + channel : nullptr, a.c_stride[5]}, bias{a.bias ? a.bias + channel : nullptr, a.c_stride[5]};
      const Operand r{a.r ? a.r + walk.offset[1] : nullptr, a.r_stride[5]};
      float* y = a.y + walk.offset[3];
      for (int64_t i = 0; i < n; i += kLanes) {
        const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
        Vec v = x.at(i, lanes);
        if (scale.p) v = mul(v, scale.at(i, lanes));
        if (bias.p) v = add(v, bias.at(i, lanes));
        if (r.p) v = a.multiply ? mul(v, r.at(i, lanes)) : add(v, r.at(i, lanes));
        v = clamp.exact ? bounded(v, clamp) : activate(v, static_cast<Activation>(a.activation), a.act_a, a.act_b);
        put_strided(y, a.y_stride[5], i, v, lanes);
      }
    }
  });
}

void halo_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const HaloArgs*>(arguments);
  const int64_t units = a.images * a.channels;
  const auto word = static_cast<int32_t>(a.word);
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t channel = unit % a.channels;
      int32_t* plane = a.y + unit / a.channels * a.y_image + channel * a.y_channel;
      fill_lead(plane, a.y_channel, a.lead, channel + 1 == a.channels, word);
      for (int64_t h = 0; h < a.height; ++h)
        for (int64_t w = a.width; w < a.pitch; ++w) plane[h * a.pitch + w] = word;
      for (int64_t i = 0; i < a.rest; ++i) plane[a.height * a.pitch + i] = word;
    }
  });
}
