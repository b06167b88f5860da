// Pooling, outputs in lanes: rows are combined first, into a line with neutral elements around it, and then the columns of
// windows one or two apart; else the taps of a window are loads a stride apart, and windows that reach beyond the pixels
// are clipped and taken one by one. Padding never wins a maximum and, unless include_pad, is not counted by an average. NaN
// wins: the two orders of a vector maximum differ only where one operand is NaN, and then the bits of both are NaN.

inline float greater(float a, float b) { return a > b || a != a ? a : b; }

struct Reals {
  using Element = float;
  using Lanes = Vec;
  static Vec some(const float* p, int64_t n) { return load_some(p, n < kLanes ? static_cast<int>(n) : kLanes); }
  static void keep_all(float* p, Vec a) { store(p, a); }
  static Vec evens(Vec a, Vec b) { return even_lanes(a, b); }
  static Vec odds(Vec a, Vec b) { return odd_lanes(a, b); }
};

struct Maxima : Reals {
  static constexpr bool counted = false;  // whether it matters how many pixels a window has
  static Vec start() { return splat(-__builtin_huge_valf()); }
  static Vec combine(Vec a, Vec b) { return either(max(a, b), max(b, a)); }
};

struct Sums : Reals {
  static constexpr bool counted = true;
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

// Windows that are taken at a time, by first combining their rows into lines: some rows of them, so that a line is in the
// cache by the time that it is read.
constexpr int kPoolRows = 8, kPoolColumns = 4 * kLanes;

// The rows of windows, combined: `count` columns from `left` on, of which some may lie beyond the pixels. `x`: column 0.
template <class Op, class Args>
inline void combine_rows(const Args& a, const typename Op::Element* x, Taps rows, int64_t left, int64_t count, typename Op::Element* line) {
  const int64_t before = left < 0 ? (-left < count ? -left : count) : 0, real = rows.count() ? a.width - left : 0;
  const int64_t end = real < before ? before : real < count ? real : count, step = a.dilation_h * a.x_row;
  for (int64_t i = 0; i < before; i += kLanes) Op::keep_all(line + i, Op::start());
  for (int64_t i = before; i < end; i += kLanes) {
    const auto* p = x + rows.first * step + left + i;
    auto value = Op::some(p, end - i);
    for (int64_t r = rows.first + 1; r < rows.last; ++r) value = Op::combine(value, Op::some(p += step, end - i));
    Op::keep_all(line + i, value);
  }
  for (int64_t i = end; i < count; i += kLanes) Op::keep_all(line + i, Op::start());
}

// kLanes windows of a line, `step` (one or two) columns apart; every second one is the even or the odd lanes of loads.
template <class Op>
inline typename Op::Lanes combine_columns(const typename Op::Element* line, int64_t step, int64_t columns) {
  auto value = Op::start();
  for (int64_t s = 0; s < columns; s += step) {
    if (step == 1) {
      value = Op::combine(value, Op::some(line + s, kLanes));
      continue;
    }
    const auto low = Op::some(line + s, kLanes), high = Op::some(line + kLanes + s, kLanes);
    value = Op::combine(value, Op::evens(low, high));
    if (s + 1 < columns) value = Op::combine(value, Op::odds(low, high));
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

// Windows in which all columns lie within the pixels: from `first` on, below `last`.
template <class Args>
inline Taps whole_windows(const Args& a) {
  const int64_t room = a.width - 1 - (a.kernel_w - 1) * a.dilation_w + a.pad_left;
  const int64_t last = room < 0 ? 0 : room / a.stride_w + 1;
  return {(a.pad_left + a.stride_w - 1) / a.stride_w, last < a.out_width ? last : a.out_width};
}

// As `pool_band`, where windows are one or two columns apart and their taps neighbours.
template <class Op, class Args, class Put>
inline void pool_lines(const Args& a, const Band& band, const typename Op::Element* x, const Put& put) {
  constexpr int64_t length = 2 * kPoolColumns + 4 * kLanes;
  alignas(64) typename Op::Element lines[kPoolRows * length];
  const Taps whole = whole_windows(a);
  for (int64_t top = band.first; top < band.last; top += kPoolRows) {
    const int64_t bottom = top + kPoolRows < band.last ? top + kPoolRows : band.last;
    for (int64_t left = 0; left < a.out_width; left += kPoolColumns) {
      const int64_t right = left + kPoolColumns < a.out_width ? left + kPoolColumns : a.out_width;
      const auto rows_of = [&](int64_t oh) { return taps_within(oh * a.stride_h - a.pad_top, a.dilation_h, a.kernel_h, a.height); };
      for (int64_t oh = top; oh < bottom; ++oh)
        combine_rows<Op>(a, x + (oh * a.stride_h - a.pad_top) * a.x_row, rows_of(oh), left * a.stride_w - a.pad_left,
                         (right - left - 1) * a.stride_w + a.kernel_w, lines + (oh - top) * length);
      for (int64_t oh = top; oh < bottom; ++oh) {
        const int64_t rows = rows_of(oh).count();
        int n = 1;
        for (int64_t ow = left; ow < right; ow += n) {
          const auto value = combine_columns<Op>(lines + (oh - top) * length + (ow - left) * a.stride_w, a.stride_w, a.kernel_w);
          const bool is_whole = ow >= whole.first && ow < whole.last;
          const int64_t end = Op::counted && is_whole && whole.last < right ? whole.last : right;
          n = Op::counted && !is_whole ? 1 : end - ow < kLanes ? static_cast<int>(end - ow) : kLanes;
          put(oh, ow, value, n, rows * (is_whole ? a.kernel_w : taps_within(ow * a.stride_w - a.pad_left, 1, a.kernel_w, a.width).count()));
        }
      }
    }
  }
}

// Calls put(row, column, windows combined, how many, pixels in each) for all outputs of a band.
template <class Op, class Args, class Put>
inline void pool_band(const Args& a, const Band& band, const typename Op::Element* x, const Put& put) {
  if (a.stride_w <= 2 && a.dilation_w == 1 && a.kernel_w <= kLanes) return pool_lines<Op>(a, band, x, put);
  const Taps whole = whole_windows(a);
  for (int64_t oh = band.first; oh < band.last; ++oh) {
    const int64_t top = oh * a.stride_h - a.pad_top;
    const Taps rows = taps_within(top, a.dilation_h, a.kernel_h, a.height);
    int n = 1;
    for (int64_t ow = 0; ow < a.out_width; ow += n) {
      const int64_t left = ow * a.stride_w - a.pad_left;
      const bool is_whole = ow >= whole.first && ow < whole.last;
      n = !is_whole ? 1 : whole.last - ow < kLanes ? static_cast<int>(whole.last - ow) : kLanes;
      const Taps columns = is_whole ? Taps{0, a.kernel_w} : taps_within(left, a.dilation_w, a.kernel_w, a.width);
      put(oh, ow, pool_windows<Op>(a, x + top * a.x_row + left, rows, columns, n), n, rows.count() * columns.count());
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
