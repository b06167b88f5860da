// Pooling: the rows of a window are combined in lanes into a line of scratch, between borders that change nothing; then
// its columns are, output by output in lanes. Padding never wins a maximum and, unless include_pad, is not counted by an
// average. NaN wins: the two orders of a vector maximum differ only where one operand is NaN, and then the bits of both
// together are NaN.

inline float greater(float a, float b) { return a > b || a != a ? a : b; }

struct Reals {
  using Element = float;
  using Lanes = Vec;
  static Vec load(const float* p, int n) { return load_some(p, n); }
  static void store(float* p, Vec v, int n) { put(p, v, n); }
  static Vec evens(const float* p, int n) { return load_evens(p, n < kLanes ? n : kLanes); }
};

struct Maxima : Reals {
  static Vec start() { return splat(-__builtin_huge_valf()); }
  static Vec combine(Vec a, Vec b) { return either(max(a, b), max(b, a)); }
};

struct Sums : Reals {
  static Vec start() { return splat(0.0f); }
  static Vec combine(Vec a, Vec b) { return add(a, b); }
};

// How many of `kernel` steps from `first` on lie in 0 .. size - 1.
inline int64_t within(int64_t first, int64_t step, int64_t kernel, int64_t size) {
  int64_t count = 0;
  for (int64_t i = 0; i < kernel; ++i) count += first + i * step >= 0 && first + i * step < size;
  return count;
}

// p[0], p[step], …: n of them.
template <class Op>
inline typename Op::Lanes load_steps(const typename Op::Element* p, int64_t step, int n) {
  if (step == 1) return Op::load(p, n);
  if (step == 2) return Op::evens(p, n);
  alignas(64) typename Op::Element lanes[kLanes] = {};
  for (int i = 0; i < kLanes && i < n; ++i) lanes[i] = p[i * step];
  return Op::load(lanes, kLanes);
}

// Elements of a line: all that windows reach, and all pixels.
template <class Args>
inline int64_t line_length(const Args& a) {
  const int64_t reach = (a.out_width - 1) * a.stride_w + (a.kernel_w - 1) * a.dilation_w + 1;
  return reach > a.pad_left + a.width ? reach : a.pad_left + a.width;
}

// The rows of the windows that begin at row `top` in `line`, which begins `pad_left` before the first pixel.
template <class Op, class Args>
inline void pool_rows(const Args& a, const typename Op::Element* x, int64_t top, typename Op::Element* line, int64_t length) {
  for (int64_t i = 0; i < length; i += kLanes) Op::store(line + i, Op::start(), static_cast<int>(length - i));
  for (int64_t r = 0; r < a.kernel_h; ++r) {
    const int64_t h = top + r * a.dilation_h;
    if (h < 0 || h >= a.height) continue;
    for (int64_t i = 0; i < a.width; i += kLanes) {
      const int lanes = static_cast<int>(a.width - i);
      auto* to = line + a.pad_left + i;
      Op::store(to, Op::combine(Op::load(to, lanes), Op::load(x + h * a.x_row + i, lanes)), lanes);
    }
  }
}

// The columns of the windows of outputs ow, ow + 1, …
template <class Op, class Args>
inline typename Op::Lanes pool_columns(const Args& a, const typename Op::Element* line, int64_t ow, int lanes) {
  typename Op::Lanes value = Op::start();
  for (int64_t s = 0; s < a.kernel_w; ++s)
    value = Op::combine(value, load_steps<Op>(line + ow * a.stride_w + s * a.dilation_w, a.stride_w, lanes));
  return value;
}

void pool2d_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PoolArgs*>(arguments);
  const int64_t units = a.images * a.channels, length = line_length(a);
  float *line = worker.scratch, *counts = line + length;
  for (int64_t ow = 0; ow < a.out_width; ++ow) {
    const int64_t count = a.include_pad ? a.kernel_w : within(ow * a.stride_w - a.pad_left, a.dilation_w, a.kernel_w, a.width);
    counts[ow] = static_cast<float>(count > 0 ? count : 1);
  }
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const float* x = a.x + unit / a.channels * a.x_image + unit % a.channels * a.x_channel;
      float* y = a.y + unit / a.channels * a.y_image + unit % a.channels * a.y_channel;
      for (int64_t oh = 0; oh < a.out_height; ++oh, y += a.y_row) {
        const int64_t top = oh * a.stride_h - a.pad_top;
        const int64_t rows = a.include_pad ? a.kernel_h : within(top, a.dilation_h, a.kernel_h, a.height);
        const Vec height = splat(static_cast<float>(rows > 0 ? rows : 1));
        (a.average ? pool_rows<Sums, PoolArgs> : pool_rows<Maxima, PoolArgs>)(a, x, top, line, length);
        for (int64_t ow = 0; ow < a.out_width; ow += kLanes) {
          const int lanes = static_cast<int>(a.out_width - ow);
          if (a.average) {
            put(y + ow, div(pool_columns<Sums>(a, line, ow, lanes), mul(load_some(counts + ow, lanes), height)), lanes);
          } else {
            put(y + ow, pool_columns<Maxima>(a, line, ow, lanes), lanes);
          }
        }
      }
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
