// Pooling: the rows of a window are combined in lanes into scratch, its columns one by one. Windows are clipped at the
// borders: padding never wins a maximum and, unless include_pad, is not counted by an average. NaN wins: the two orders
// of a vector maximum differ only where one operand is NaN, and then the bits of both together are NaN.

// The greater of two numbers; NaN where one of them is.
inline float greater(float a, float b) { return a > b || a != a ? a : b; }

inline void pool_columns(const PoolArgs& a, const float* row, float* y, int64_t rows_in_window) {
  for (int64_t ow = 0; ow < a.out_width; ++ow) {
    float value = a.average ? 0.0f : -__builtin_huge_valf();
    int64_t count = 0;
    for (int64_t s = 0; s < a.kernel_w; ++s) {
      const int64_t w = ow * a.stride_w - a.pad_left + s * a.dilation_w;
      if (w < 0 || w >= a.width) continue;
      value = a.average ? value + row[w] : greater(row[w], value);
      ++count;
    }
    const int64_t area = a.include_pad ? a.kernel_h * a.kernel_w : rows_in_window * count;
    y[ow] = a.average ? value / static_cast<float>(area > 0 ? area : 1) : value;
  }
}

void pool2d_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PoolArgs*>(arguments);
  const int64_t units = a.images * a.channels;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const float* x = a.x + unit / a.channels * a.x_image + unit % a.channels * a.x_channel;
      float* y = a.y + unit / a.channels * a.y_image + unit % a.channels * a.y_channel;
      for (int64_t oh = 0; oh < a.out_height; ++oh) {
        const Vec start = splat(a.average ? 0.0f : -__builtin_huge_valf());
        for (int64_t i = 0; i < a.width; i += kLanes) store(worker.scratch + i, start);
        int64_t count = 0;
        for (int64_t r = 0; r < a.kernel_h; ++r) {
          const int64_t h = oh * a.stride_h - a.pad_top + r * a.dilation_h;
          if (h < 0 || h >= a.height) continue;
          ++count;
          for (int64_t i = 0; i < a.width; i += kLanes) {
            const Vec v = load_some(x + h * a.x_row + i, static_cast<int>(a.width - i));
            const Vec old = load(worker.scratch + i);
            store(worker.scratch + i, a.average ? add(old, v) : either(max(old, v), max(v, old)));
          }
        }
        pool_columns(a, worker.scratch, y + oh * a.y_row, count);
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
