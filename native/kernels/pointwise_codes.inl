// Codes of float32 images, back, and sums of two tensors of codes; a unit is one row of one word of channels.

void quantize_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const QuantizeArgs*>(arguments);
  const int64_t words = (a.channels + 3) / 4, units = a.images * words * a.height;
  const Vec inverse = splat(a.inverse), low = splat(static_cast<float>(-a.zero)), high = splat(static_cast<float>(255 - a.zero));
  const Ints zero = splat_word(static_cast<int32_t>(a.zero));
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t h = unit % a.height, word = unit / a.height % words, image = unit / (a.height * words);
      const float* x = a.x + image * a.x_image + 4 * word * a.x_channel + h * a.x_row;
      int32_t* y = a.y + image * a.y_image + word * a.y_channel + h * a.y_row;
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int lanes = static_cast<int>(a.width - i < kLanes ? a.width - i : kLanes);
        Ints codes = splat_word(0);
        for (int c = 0; c < 4; ++c) {
          Ints code = zero;
          if (4 * word + c < a.channels)
            code = to_code(mul(Operand{x + c * a.x_channel, a.x_column}.at(i, lanes), inverse), low, high, zero);
          codes = either(codes, up(code, 8 * c));
        }
        put_words(y + i, codes, lanes);
      }
    }
  });
}

void dequantize_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const DequantizeArgs*>(arguments);
  const int64_t units = a.images * a.channels * a.height;
  const Vec scale = splat(a.scale);
  const Ints zero = splat_word(static_cast<int32_t>(a.zero));
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t h = unit % a.height, channel = unit / a.height % a.channels, image = unit / (a.height * a.channels);
      const int32_t* x = a.x + image * a.x_image + channel / 4 * a.x_channel + h * a.x_row;
      float* y = a.y + image * a.y_image + channel * a.y_channel + h * a.y_row;
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int lanes = static_cast<int>(a.width - i < kLanes ? a.width - i : kLanes);
        const Ints code = byte_of(load_some_words(x + i, lanes), static_cast<int>(channel % 4));
        put_strided(y, a.y_column, i, mul(to_real(sub(code, zero)), scale), lanes);
      }
    }
  });
}

void add_int8(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const AddCodesArgs*>(arguments);
  const int64_t units = a.images * a.channels * a.height;
  const Vec low = splat(static_cast<float>(a.low - a.zero)), high = splat(static_cast<float>(a.high - a.zero));
  const Vec x_ratio = splat(a.x_ratio), r_ratio = splat(a.r_ratio);
  const Ints zero = splat_word(static_cast<int32_t>(a.zero));
  const Ints x_zero = splat_word(static_cast<int32_t>(a.x_zero)), r_zero = splat_word(static_cast<int32_t>(a.r_zero));
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t h = unit % a.height, word = unit / a.height % a.channels, image = unit / (a.height * a.channels);
      const int32_t* x = a.x + image * a.x_image + word * a.x_channel + h * a.x_row;
      const int32_t* r = a.r + image * a.r_image + word * a.r_channel + h * a.r_row;
      int32_t* y = a.y + image * a.y_image + word * a.y_channel + h * a.y_row;
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int lanes = static_cast<int>(a.width - i < kLanes ? a.width - i : kLanes);
        const Ints p = load_some_words(x + i, lanes), q = load_some_words(r + i, lanes);
        Ints codes = splat_word(0);
        for (int c = 0; c < 4; ++c) {
          const Vec s = mul(to_real(sub(byte_of(p, c), x_zero)), x_ratio), t = mul(to_real(sub(byte_of(q, c), r_zero)), r_ratio);
          codes = either(codes, up(to_code(add(s, t), low, high, zero), 8 * c));
        }
        put_words(y + i, codes, lanes);
      }
    }
  });
}
