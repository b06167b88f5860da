// Pooling, outputs in lanes: the taps of a window are loads a stride apart. Windows that reach beyond the pixels are
// clipped and taken one by one: padding never wins a maximum and, unless include_pad, is not counted by an average. NaN
// wins: the two orders of a vector maximum differ only where one operand is NaN, and then the bits of both are NaN.

inline float greater(float a, float b) { return a > b || a != a ? a : b; }

struct Reals {
  using Element = float;
  using Lanes = Vec;
  static Vec some(const float* p, int64_t n) { return load_some(p, n < kLanes ? static_cast<int>(n) : kLanes); }
  static Vec evens(Vec a, Vec b) { return even_lanes(a, b); }
  static Vec odds(Vec a, Vec b) { return odd_lanes(a, b); }
};

struct Maxima : Reals {
  static Vec start() { return splat(-__builtin_huge_valf()); }
  static Vec combine(Vec a, Vec b) { return either(max(a, b), max(b, a)); }
};

struct Sums : Reals {
  static Vec start() { return splat(0.0f); }
  static Vec combine(Vec a, Vec b) { return add(a, b); }
};

// p[0], p[step], …: n of them.
template <class Op>
inline typename Op::Lanes load_steps(const typename Op::Element* p, int64_t step, int n) {
  if (step == 1 || n == 1) return Op::some(p, n);
  alignas(64) typename Op::Element lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i * step];
  return Op::some(lanes, kLanes);
}

// The taps of a window, from `start` on and `step` apart, that lie in 0 .. size - 1.
struct Taps {
  int64_t first, last;
  int64_t count() const { return last > first ? last - first : 0; }
};

inline Taps taps_within(int64_t start, int64_t step, int64_t kernel, int64_t size) {
  const int64_t first = start < 0 ? (step - 1 - start) / step : 0;
  const int64_t last = start < size ? (size - 1 - start) / step + 1 : 0;
  return {first, last < kernel ? last : kernel};
}

// n windows whose taps are `rows` and `columns`, the first of them at `p`.
template <class Op, class Args>
inline typename Op::Lanes pool_windows(const Args& a, const typename Op::Element* p, Taps rows, Taps columns, int n) {
  auto value = Op::start();
  for (int64_t r = rows.first; r < rows.last; ++r) {
    for (int64_t s = columns.first; s < columns.last; ++s)
      value = Op::combine(value, load_steps<Op>(p + r * a.dilation_h * a.x_row + s * a.dilation_w, a.stride_w, n));
  }
  return value;
}

// The same for whole windows a stride of two apart: two neighbouring columns of taps are the even and the odd lanes of the
// same loads, whose rows are combined first. `room`: elements from `p` to the end of the row.
template <class Op, class Args>
inline typename Op::Lanes pool_pairs(const Args& a, const typename Op::Element* p, Taps rows, int64_t room) {
  auto value = Op::start();
  for (int64_t s = 0; s < a.kernel_w; s += 2) {
    auto low = Op::start(), high = Op::start();
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const auto* row = p + r * a.dilation_h * a.x_row + s;
      low = Op::combine(low, Op::some(row, room - s));
      if (room - s > kLanes) high = Op::combine(high, Op::some(row + kLanes, room - s - kLanes));
    }
    value = Op::combine(value, Op::evens(low, high));
    if (s + 1 < a.kernel_w) value = Op::combine(value, Op::odds(low, high));
  }
  return value;
}

// Rows `first` to `last` of a plane of outputs.
struct Band {
  int64_t image, channel, first, last;
};

// Units of pooling: one band of rows for each thread, all channels of a band before the next, so that a thread reads about
// what it has written before, and what it writes it reads again.
template <class Args>
inline int64_t bands_of(const Args& a, const Worker& worker) {
  return worker.threads < a.out_height ? worker.threads : a.out_height;
}

template <class Args>
inline Band band_of(const Args& a, int64_t unit, int64_t bands) {
  const int64_t channel = unit % a.channels, band = unit / a.channels % bands;
  return {unit / a.channels / bands, channel, a.out_height * band / bands, a.out_height * (band + 1) / bands};
}

// Calls put(row, column, windows combined, how many, pixels in each) for all outputs of a band.
template <class Op, class Args, class Put>
inline void pool_band(const Args& a, const Band& band, const typename Op::Element* x, const Put& put) {
  const int64_t room = a.width - 1 - (a.kernel_w - 1) * a.dilation_w + a.pad_left;
  const int64_t whole_from = (a.pad_left + a.stride_w - 1) / a.stride_w, whole_to = room < 0 ? 0 : room / a.stride_w + 1;
  const bool paired = a.stride_w == 2 && a.dilation_w == 1;
  for (int64_t oh = band.first; oh < band.last; ++oh) {
    const int64_t top = oh * a.stride_h - a.pad_top;
    const Taps rows = taps_within(top, a.dilation_h, a.kernel_h, a.height);
    int n = 1;
    for (int64_t ow = 0; ow < a.out_width; ow += n) {
      const int64_t left = ow * a.stride_w - a.pad_left, end = whole_to < a.out_width ? whole_to : a.out_width;
      const bool whole = ow >= whole_from && ow < end;
      n = !whole ? 1 : end - ow < kLanes ? static_cast<int>(end - ow) : kLanes;
      const Taps columns = whole ? Taps{0, a.kernel_w} : taps_within(left, a.dilation_w, a.kernel_w, a.width);
      const auto* p = x + top * a.x_row + left;
      const auto value = paired && whole ? pool_pairs<Op>(a, p, rows, a.width - left) : pool_windows<Op>(a, p, rows, columns, n);
      put(oh, ow, value, n, rows.count() * columns.count());
    }
  }
}

void pool2d_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PoolArgs*>(arguments);
  const int64_t bands = bands_of(a, worker), units = a.images * bands * a.channels;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const Band band = band_of(a, unit, bands);
      const float* x = a.x + band.image * a.x_image + band.channel * a.x_channel;
      float* y = a.y + band.image * a.y_image + band.channel * a.y_channel;
      if (!a.average) {
        pool_band<Maxima>(a, band, x, [&](int64_t oh, int64_t ow, Vec value, int n, int64_t) { put(y + oh * a.y_row + ow, value, n); });
        continue;
      }
      pool_band<Sums>(a, band, x, [&](int64_t oh, int64_t ow, Vec value, int n, int64_t count) {
        const int64_t area = a.include_pad ? a.kernel_h * a.kernel_w : count > 0 ? count : 1;
        put(y + oh * a.y_row + ow, div(value, splat(static_cast<float>(area))), n);
      });
    }
  });
}

void adaptive_pool2d_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const AdaptivePoolArgs*>(arguments);
  const int64_t units = a.images * a.channels;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const float* x = a.x + unit / a.channels * a.x_image + unit % a.channels * a.x_channel;
      float* y = a.y + unit / a.channels * a.y_image + unit % a.channels * a.y_channel;
      for (int64_t oh = 0; oh < a.out_height; ++oh)
        for (int64_t ow = 0; ow < a.out_width; ++ow) {
          const int64_t top = oh * a.height / a.out_height, bottom = ((oh + 1) * a.height + a.out_height - 1) / a.out_height;
          const int64_t left = ow * a.width / a.out_width, right = ((ow + 1) * a.width + a.out_width - 1) / a.out_width;
          float value = a.average ? 0.0f : -__builtin_huge_valf();
          for (int64_t h = top; h < bottom; ++h)
            for (int64_t w = left; w < right; ++w) {
              const float v = x[h * a.x_row + w];
              value = a.average ? value + v : greater(v, value);
            }
          y[oh * a.y_row + ow] = a.average ? value / static_cast<float>((bottom - top) * (right - left)) : value;
        }
    }
  });
}

void mean_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const MeanArgs*>(arguments);
  const int64_t units = a.outer[0] * a.outer[1] * a.outer[2] * a.outer[3];
  const float count = static_cast<float>(a.inner[0] * a.inner[1] * a.inner[2]);
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t rest = unit, from = 0, to = 0;
      for (int d = 3; d >= 0; --d) {
        from += rest % a.outer[d] * a.x_outer[d];
        to += rest % a.outer[d] * a.y_outer[d];
        rest /= a.outer[d];
      }
      Vec lanes = splat(0.0f);
      float scalar = 0.0f;
      for (int64_t i = 0; i < a.inner[0]; ++i)
        for (int64_t j = 0; j < a.inner[1]; ++j) {
          const float* p = a.x + from + i * a.x_inner[0] + j * a.x_inner[1];
          if (a.x_inner[2] == 1) {
            for (int64_t k = 0; k < a.inner[2]; k += kLanes) lanes = add(lanes, load_some(p + k, static_cast<int>(a.inner[2] - k)));
          } else {
            for (int64_t k = 0; k < a.inner[2]; ++k) scalar += p[k * a.x_inner[2]];
          }
        }
      a.y[to] = (sum(lanes) + scalar) / count;
    }
  });
}
