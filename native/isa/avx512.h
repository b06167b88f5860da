// Vectors of sixteen floats with AVX-512 (F, BW, DQ, VL).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace dovetail::avx512 {

constexpr int kLanes = 16;
using Vec = __m512;

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec load_halves(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}
inline void store_halves(float* a, float* b, Vec v) {
  _mm256_storeu_ps(a, _mm512_castps512_ps256(v));
  _mm256_storeu_ps(b, _mm512_extractf32x8_ps(v, 1));
}
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline __mmask16 lanes_below(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
// p[0], p[2], …: n of them, reading no further than the last.
inline Vec load_evens(const float* p, int n) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(load_first(p, 2 * n - 1), even, n > 8 ? load_first(p + 16, 2 * n - 17) : splat(0.0f));
}
inline void store_first(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), a); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
inline Vec copy_sign(Vec a, Vec sign) { return _mm512_or_ps(abs(a), _mm512_and_ps(_mm512_set1_ps(-0.0f), sign)); }
inline Vec either(Vec a, Vec b) { return _mm512_or_ps(a, b); }
inline Vec keep(Vec a, uint32_t bits) { return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), a); }
inline Vec exp2_integral(Vec n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }

}  // namespace dovetail::avx512
