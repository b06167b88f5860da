// Products of spectra: what is left of circulant blocks between a transform of every input block and one back of every sum.
//
// Y[i] = sum over j of W[i, j] X[j], frequency by frequency. A spectrum is as many numbers as a block: the real frequency 0
// (of an even size with the middle one, real too, beside it), then real and imaginary part of each one that is left. Block
// rows in lanes, up to four vectors of them in registers, so that no lane is spent on a frequency that there is not, however
// small the blocks; numbers of X are broadcast. Units: (frequency, block of vectors, row of x): W is read in order, and for
// several rows of x from the cache that holds a unit's part of it.

constexpr int kSpectrumVectors = 4;

struct SpectrumBlock {
  int32_t first, vectors;
};

// Frequencies that are real, one or two of them.
template <int V, int Numbers>
void real_sums(const float* w, const float* x, int64_t columns, int64_t x_step, float* sums) {
  Vec acc[Numbers][V];
  each<Numbers>(DOVETAIL_LAMBDA(int n) { each<V>(DOVETAIL_LAMBDA(int v) { acc[n][v] = splat(0.0f); }); });
  for (int64_t j = 0; j < columns; ++j, w += Numbers * V * kLanes, x += x_step)
    each<Numbers>(DOVETAIL_LAMBDA(int n) {
      const Vec number = splat(x[n]);
      each<V>(DOVETAIL_LAMBDA(int v) {
        __builtin_prefetch(w + (n * V + v) * kLanes + kAhead, 0, 2);
        acc[n][v] = fma(number, load(w + (n * V + v) * kLanes), acc[n][v]);
      });
    });
  each<Numbers>(DOVETAIL_LAMBDA(int n) { each<V>(DOVETAIL_LAMBDA(int v) { store(sums + (n * V + v) * kLanes, acc[n][v]); }); });
}

// One that is complex. Where registers allow it a sum has a second one beside it, so that two products need not wait for one
// another.
template <int V>
void complex_sums(const float* w, const float* x, int64_t columns, int64_t x_step, float* sums) {
  constexpr int chains = 4 * V + 6 <= kRegisters ? 2 : 1, other = chains - 1;
  Vec real[chains][V], imaginary[chains][V];
  each<chains>(DOVETAIL_LAMBDA(int c) { each<V>(DOVETAIL_LAMBDA(int v) { real[c][v] = imaginary[c][v] = splat(0.0f); }); });
  for (int64_t j = 0; j < columns; ++j, w += 2 * V * kLanes, x += x_step) {
    const Vec xr = in_register(splat(x[0])), xi = in_register(splat(x[1])), less = in_register(sub(splat(0.0f), xi));
    each<V>(DOVETAIL_LAMBDA(int v) {
      __builtin_prefetch(w + v * kLanes + kAhead, 0, 2);
      __builtin_prefetch(w + (V + v) * kLanes + kAhead, 0, 2);
      const Vec wr = in_register(load(w + v * kLanes)), wi = in_register(load(w + (V + v) * kLanes));
      real[0][v] = fma(wr, xr, real[0][v]);
      imaginary[0][v] = fma(wr, xi, imaginary[0][v]);
      real[other][v] = fma(wi, less, real[other][v]);
      imaginary[other][v] = fma(wi, xr, imaginary[other][v]);
    });
  }
  each<V>(DOVETAIL_LAMBDA(int v) {
    store(sums + v * kLanes, chains > 1 ? add(real[0][v], real[other][v]) : real[0][v]);
    store(sums + (V + v) * kLanes, chains > 1 ? add(imaginary[0][v], imaginary[other][v]) : imaginary[0][v]);
  });
}

enum class Frequency { alone, ends, complex };  // 0 alone, 0 and the middle one, another one

template <int V = kSpectrumVectors>
void spectrum_sums(int vectors, Frequency kind, const float* w, const float* x, int64_t columns, int64_t x_step, float* sums) {
  if constexpr (V > 1)
    if (vectors < V) return spectrum_sums<V - 1>(vectors, kind, w, x, columns, x_step, sums);
  switch (kind) {
    case Frequency::alone: return real_sums<V, 1>(w, x, columns, x_step, sums);
    case Frequency::ends: return real_sums<V, 2>(w, x, columns, x_step, sums);
    default: return complex_sums<V>(w, x, columns, x_step, sums);
  }
}

void linear_circulant_f32(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const CirculantArgs*>(arguments);
  const auto* blocks = reinterpret_cast<const SpectrumBlock*>(a.blocks);
  const int64_t odd = a.size % 2, units = (a.size + 1) / 2 * a.block_count * a.batch;
  for_units(worker, units, grain_of(units, worker.threads), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit % a.batch, frequency = unit / (a.batch * a.block_count);
      const SpectrumBlock& block = blocks[unit / a.batch % a.block_count];
      const int64_t at = frequency ? 2 * frequency - odd : 0;  // of its first number in a spectrum
      const Frequency kind = frequency ? Frequency::complex : odd ? Frequency::alone : Frequency::ends;
      const int numbers = kind == Frequency::alone ? 1 : 2, lanes = block.vectors * kLanes;
      const float* w = a.w + (at * a.vectors + numbers * block.first) * a.columns * kLanes;
      alignas(64) float sums[2 * kSpectrumVectors * kLanes];
      spectrum_sums(block.vectors, kind, w, a.x + row * a.columns * a.size + at, a.columns, a.size, sums);
      const int64_t first = static_cast<int64_t>(block.first) * kLanes, left = a.rows - first;
      float* y = a.y + (row * a.rows + first) * a.size + at;
      for (int i = 0; i < lanes && i < left; ++i, y += a.size)
        for (int n = 0; n < numbers; ++n) y[n] = sums[n * lanes + i];
    }
  });
}
