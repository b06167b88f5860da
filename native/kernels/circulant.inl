// Products of spectra: what is left of circulant blocks between a transform of every input block and one back of every sum.
//
// Y[i] = sum over j of W[i, j] X[j], frequency by frequency, in complex numbers. Frequencies in lanes, four block rows in
// registers; a vector of frequencies of X is three vectors (real, imaginary, and the real one once more), of W and Y two.
// The place of frequency 0, whose imaginary parts are zero, has the middle frequency of an even size for these parts: there
// the imaginary vector of X is zero and the third one has that frequency, so that one loop does for all. Units: (row of x,
// four block rows, vector of frequencies); W is read in order, once for each row of x.

constexpr int kSpectrumRows = 4;

void linear_circulant_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const CirculantArgs*>(arguments);
  const int64_t tiles = (a.rows + kSpectrumRows - 1) / kSpectrumRows, units = a.batch * tiles * a.vectors;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t vector = unit % a.vectors, tile = unit / a.vectors % tiles, row = unit / (a.vectors * tiles);
      const float* w = a.w + unit % (a.vectors * tiles) * a.columns * 2 * kSpectrumRows * kLanes;
      const float* x = a.x + (row * a.columns * a.vectors + vector) * 3 * kLanes;
      Vec real[kSpectrumRows], imaginary[kSpectrumRows];
      each<kSpectrumRows>(DOVETAIL_LAMBDA(int i) { real[i] = imaginary[i] = splat(0.0f); });
      for (int64_t j = 0; j < a.columns; ++j, w += 2 * kSpectrumRows * kLanes, x += a.vectors * 3 * kLanes) {
        const Vec xr = in_register(load(x)), xi = in_register(load(x + kLanes)), again = in_register(load(x + 2 * kLanes));
        const Vec less = sub(splat(0.0f), xi);
        each<kSpectrumRows>(DOVETAIL_LAMBDA(int i) {
          __builtin_prefetch(w + 2 * i * kLanes + kAhead, 0, 2);
          const Vec wr = load(w + 2 * i * kLanes), wi = load(w + (2 * i + 1) * kLanes);
          real[i] = fma(wi, less, fma(wr, xr, real[i]));
          imaginary[i] = fma(wi, again, fma(wr, xi, imaginary[i]));
        });
      }
      each<kSpectrumRows>(DOVETAIL_LAMBDA(int i) {
        const int64_t at = tile * kSpectrumRows + i;
        if (at >= a.rows) return;
        float* y = a.y + ((row * a.rows + at) * a.vectors + vector) * 2 * kLanes;
        store(y, real[i]), store(y + kLanes, imaginary[i]);
      });
    }
  });
}
