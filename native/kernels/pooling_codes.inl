// Pooling of codes: greatest bytes of a window as in pooling.inl, or their sums, which are rounded once.

struct Window {
  int64_t top, bottom, left, right;
};

inline Window window_of(const PoolCodesArgs& a, int64_t oh, int64_t ow) {
  if (a.average == 2)
    return {oh * a.height / a.out_height, ((oh + 1) * a.height + a.out_height - 1) / a.out_height,
            ow * a.width / a.out_width, ((ow + 1) * a.width + a.out_width - 1) / a.out_width};
  Window w{oh * a.stride_h - a.pad_top, 0, ow * a.stride_w - a.pad_left, 0};
  w.bottom = w.top + a.kernel_h, w.right = w.left + a.kernel_w;
  if (w.top < 0) w.top = 0;
  if (w.left < 0) w.left = 0;
  if (w.bottom > a.height) w.bottom = a.height;
  if (w.right > a.width) w.right = a.width;
  return w;
}

struct GreatestCodes {
  using Element = int32_t;
  using Lanes = Ints;
  static constexpr bool counted = false;
  static void keep_all(int32_t* p, Ints a) { store_words(p, a); }
  static Ints some(const int32_t* p, int64_t n) { return load_some_words(p, n < kLanes ? static_cast<int>(n) : kLanes); }
  static Ints evens(Ints a, Ints b) { return even_lanes(a, b); }
  static Ints odds(Ints a, Ints b) { return odd_lanes(a, b); }
  static Ints start() { return splat_word(0); }
  static Ints combine(Ints a, Ints b) { return greater_bytes(a, b); }
};

inline int64_t window_sums(const PoolCodesArgs& a, const int32_t* x, const Window& w, int32_t (&sums)[4]) {
  Ints total[4] = {splat_word(0), splat_word(0), splat_word(0), splat_word(0)};
  for (int64_t h = w.top; h < w.bottom; ++h)
    for (int64_t i = w.left; i < w.right; i += kLanes) {
      const Ints words = load_some_words(x + h * a.x_row + i, static_cast<int>(w.right - i));
      for (int c = 0; c < 4; ++c) total[c] = add(total[c], byte_of(words, c));
    }
  const int64_t count = (w.bottom - w.top) * (w.right - w.left);
  for (int c = 0; c < 4; ++c) sums[c] = sum(total[c]) - static_cast<int32_t>(count * a.x_zero);
  return count;
}

void pool2d_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const PoolCodesArgs*>(arguments);
  const int64_t bands = bands_of(a, worker), units = a.images * bands * a.channels;
  const Vec low = splat(static_cast<float>(a.low - a.zero)), high = splat(static_cast<float>(a.high - a.zero));
  const Ints zero = splat_word(static_cast<int32_t>(a.zero));
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const Band band = band_of(a, unit, bands);
      const int64_t image = band.image, word = band.channel;
      const int32_t* x = a.x + image * a.x_image + word * a.x_channel;
      if (!a.average) {
        int32_t* y = static_cast<int32_t*>(a.y) + image * a.y_image + word * a.y_channel;
        pool_band<GreatestCodes>(a, band, x, [&](int64_t oh, int64_t ow, Ints value, int n, int64_t) { put_words(y + oh * a.y_row + ow, value, n); });
        continue;
      }
      for (int64_t oh = band.first; oh < band.last; ++oh)
        for (int64_t ow = 0; ow < a.out_width; ++ow) {
          const Window w = window_of(a, oh, ow);
          const int64_t at = image * a.y_image + oh * a.y_row + ow;
          int32_t sums[4];
          const int64_t count = window_sums(a, x, w, sums);
          const float ratio = a.ratios[a.include_pad ? 0 : count];
          uint8_t codes[4];
          for (int c = 0; c < 4; ++c) {
            const float mean = static_cast<float>(sums[c]) * ratio;
            if (a.real && 4 * word + c < a.out_channels) static_cast<float*>(a.y)[at + (4 * word + c) * a.y_channel] = mean;
            int32_t code;
            store_words_first(&code, to_code(splat(mean), low, high, zero), 1);
            codes[c] = static_cast<uint8_t>(code);
          }
          if (!a.real) __builtin_memcpy(static_cast<int32_t*>(a.y) + at + word * a.y_channel, codes, 4);
        }
    }
  });
}
