// Deals the pixels of planes into phases: planes of their own for each residue of row and column, halos included.
//
// Unit: (image, band of rows, channel, residue of the row), with the residues of all columns. There is a band for each
// thread, which then deals about the rows that it made and will read. A row of the input is read once; where columns are
// two apart, its even and odd pixels part in registers.

// The even and the odd ones of n words; null where they are not wanted.
inline void deal_pairs(const int32_t* x, int64_t n, int32_t* even, int32_t* odd) {
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    const int left = static_cast<int>(n - i < 2 * kLanes ? n - i : 2 * kLanes);
    const Ints low = load_some_words(x + i, left);
    const Ints high = left > kLanes ? load_some_words(x + i + kLanes, left - kLanes) : splat_word(0);
    if (even) put_words(even + i / 2, even_lanes(low, high), (left + 1) / 2);
    if (odd) put_words(odd + i / 2, odd_lanes(low, high), left / 2);
  }
}

void deal_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const DealArgs*>(arguments);
  const bool pairs = a.stride_w == 2 && a.x_column == 1;
  const int64_t bands = worker.threads < a.rows ? worker.threads : a.rows;
  const int64_t units = a.images * bands * a.channels * a.stride_h;
  const auto word = static_cast<int32_t>(a.word);
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t residue = unit % a.stride_h, channel = unit / a.stride_h % a.channels;
      const int64_t band = unit / (a.stride_h * a.channels) % bands, image = unit / (a.stride_h * a.channels * bands);
      const int64_t first = a.rows * band / bands, last = a.rows * (band + 1) / bands;
      const int64_t full = (a.height - residue + a.stride_h - 1) / a.stride_h;  // rows with pixels
      const int32_t* places = a.places + residue * a.stride_w;
      const auto plane_of = [&](int64_t column) -> int32_t* {
        return places[column] < 0 ? nullptr : a.y + image * a.y_image + (places[column] * a.channels + channel) * a.y_channel;
      };
      const int32_t* x = a.x + image * a.x_image + channel * a.x_channel + residue * a.x_row;
      if (pairs && (plane_of(0) || plane_of(1))) {
        int32_t *even = plane_of(0), *odd = plane_of(1);
        for (int64_t row = first; row < last && row < full; ++row)
          deal_pairs(x + row * a.stride_h * a.x_row, a.width, even ? even + row * a.pitch : nullptr, odd ? odd + row * a.pitch : nullptr);
      }
      for (int64_t column = 0; column < a.stride_w; ++column)
        if (int32_t* plane = plane_of(column)) {
          const int64_t pixels = (a.width - column + a.stride_w - 1) / a.stride_w;
          for (int64_t row = first; row < last; ++row) {
            int32_t* to = plane + row * a.pitch;
            if (!pairs && row < full)
              for (int64_t i = 0; i < pixels; ++i) to[i] = x[row * a.stride_h * a.x_row + (column + i * a.stride_w) * a.x_column];
            fill_words(to, row < full ? pixels : 0, row + 1 < a.rows ? a.pitch : a.body - row * a.pitch, word);
          }
          if (first == 0) fill_lead(plane, a.y_channel, a.lead, places[column] + 1 == a.phases && channel + 1 == a.channels, word);
        }
    }
  });
}
