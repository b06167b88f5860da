// Vectors of sixteen floats with AVX-512 (F, BW, DQ, VL); with DOVETAIL_VNNI, dot products of bytes in one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../engine/guard.h"

namespace dovetail::DOVETAIL_ISA {

constexpr int kLanes = 16;
using Vec = __m512;

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
// Loaded once, however often it is used: gcc would rather load it anew for every use.
inline Vec in_register(Vec a) { asm("" : "+v"(a)); return a; }
inline Vec load_halves(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}
inline void store_halves(float* a, float* b, Vec v) {
  _mm256_storeu_ps(a, _mm512_castps512_ps256(v));
  _mm256_storeu_ps(b, _mm512_extractf32x8_ps(v, 1));
}
// In every four lanes: {a0, b0, a1, b1}, {a2, b2, a3, b3}; {a0, a1, b0, b1}, {a2, a3, b2, b3}; {a0, a2, b0, b2}, {a1, a3, b1, b3}.
inline Vec zip_low(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
inline Vec zip_high(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }
inline Vec join_low(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0x44); }
inline Vec join_high(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0xEE); }
inline Vec evens(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0x88); }
inline Vec odds(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0xDD); }
// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&v)[kLanes]) {
  Vec r[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = zip_low(v[i], v[i + 1]), b = zip_high(v[i], v[i + 1]), c = zip_low(v[i + 2], v[i + 3]), d = zip_high(v[i + 2], v[i + 3]);
    r[i] = join_low(a, c), r[i + 1] = join_high(a, c), r[i + 2] = join_low(b, d), r[i + 3] = join_high(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const Vec a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
    const Vec c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
    v[i] = _mm512_shuffle_f32x4(a, c, 0x88), v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD), v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}
// The lanes whose bit is set.
inline void store_lanes(float* p, Vec a, uint32_t bits) { touch_lanes(p, bits); _mm512_mask_storeu_ps(p, static_cast<__mmask16>(bits), a); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline __mmask16 lanes_below(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec load_first(const float* p, int n) { touch(p, n); return _mm512_maskz_loadu_ps(lanes_below(n), p); }
// Lanes 0, 2, … of a, then of b; and lanes 1, 3, ….
inline Vec even_lanes(Vec a, Vec b) {
  return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), b);
}
inline Vec odd_lanes(Vec a, Vec b) {
  return _mm512_permutex2var_ps(a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), b);
}
// Lanes 1, 2, … of a, then lane 0 of b.
inline Vec moved_up(Vec a, Vec b) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), 1));
}
// p[0], p[2], …: n of them, reading no further than the last.
inline Vec load_evens(const float* p, int n) {
  return even_lanes(load_first(p, 2 * n - 1), n > 8 ? load_first(p + 16, 2 * n - 17) : splat(0.0f));
}
inline void store_first(float* p, Vec a, int n) { touch(p, n); _mm512_mask_storeu_ps(p, lanes_below(n), a); }
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
// The same where many vectors keep the same lanes.
using Mask = __mmask16;
inline Mask mask_of(uint32_t bits) { return static_cast<Mask>(bits); }
inline Vec keep(Vec a, Mask lanes) { return _mm512_maskz_mov_ps(lanes, a); }
inline Vec exp2_integral(Vec n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }


// Sixteen 32-bit words: whole numbers, or four codes each.
using Ints = __m512i;
inline Ints load_words(const void* p) { return _mm512_loadu_si512(p); }
inline Ints load_words_first(const void* p, int n) { touch(static_cast<const int32_t*>(p), n); return _mm512_maskz_loadu_epi32(lanes_below(n), p); }
inline Ints even_lanes(Ints a, Ints b) {
  return _mm512_permutex2var_epi32(a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), b);
}
inline Ints odd_lanes(Ints a, Ints b) {
  return _mm512_permutex2var_epi32(a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), b);
}
inline void store_words(void* p, Ints a) { _mm512_storeu_si512(p, a); }
inline void store_words_first(void* p, Ints a, int n) { touch(static_cast<const int32_t*>(p), n); _mm512_mask_storeu_epi32(p, lanes_below(n), a); }
inline Ints splat_word(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints either(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints keep(Ints a, uint32_t bits, Ints other) { return _mm512_mask_mov_epi32(other, static_cast<__mmask16>(bits), a); }
inline Ints add_where(Ints a, uint32_t bits, Ints b) { return _mm512_mask_add_epi32(a, static_cast<__mmask16>(bits), a, b); }
inline Ints up(Ints a, int bits) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
inline Ints byte_of(Ints a, int i) { return _mm512_and_si512(_mm512_srl_epi32(a, _mm_cvtsi32_si128(8 * i)), _mm512_set1_epi32(255)); }
inline Ints greater_bytes(Ints a, Ints b) { return _mm512_max_epu8(a, b); }
// Lane i is lane from[i] of a.
inline Vec pick_lanes(Vec a, Ints from) { return _mm512_permutexvar_ps(from, a); }
inline Ints pick_lanes(Ints a, Ints from) { return _mm512_permutexvar_epi32(from, a); }
// Lane i is lane from[i] of a, then of b: from 0 to twice the lanes.
inline Vec pick_of_two(Vec a, Vec b, Ints from) { return _mm512_permutex2var_ps(a, from, b); }
inline Ints pick_of_two(Ints a, Ints b, Ints from) { return _mm512_permutex2var_epi32(a, from, b); }
// Lanes N, N + 1, … of a, then the first N of b.
template <int N>
inline Ints moved_up(Ints a, Ints b) { return _mm512_alignr_epi32(b, a, N); }
inline Vec to_real(Ints a) { return _mm512_cvtepi32_ps(a); }
inline Ints to_whole(Vec a) { return _mm512_cvtps_epi32(a); }
inline int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a); }
inline Ints expand_bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec widen(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
inline void pack_bytes(uint8_t* p, Ints a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
// Words of four codes, lane by lane: the nearest whole numbers plus `zeros` (each word two of 16 bits), bounded to bytes. NaN
// is taken for a small number.
inline Ints to_code_words(const Vec (&v)[4], Ints zeros) {
  const Vec most = _mm512_set1_ps(32767.0f);
  const auto whole = [&](int i) { return _mm512_cvtps_epi32(_mm512_min_ps(most, v[i])); };
  const Ints low = _mm512_adds_epi16(_mm512_packs_epi32(whole(0), whole(1)), zeros);
  const Ints high = _mm512_adds_epi16(_mm512_packs_epi32(whole(2), whole(3)), zeros);
  const Ints order = _mm512_set4_epi32(0x0F0B0703, 0x0E0A0602, 0x0D090501, 0x0C080400);
  return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
}
// Byte j of word i becomes byte i of word j, lane by lane.
inline void transpose_bytes(Ints (&v)[4]) {
  constexpr __mmask32 halves = 0xAAAAAAAAu;
  constexpr __mmask64 bytes = 0xAAAAAAAAAAAAAAAAu;
  const Ints a = _mm512_mask_blend_epi16(halves, v[0], _mm512_slli_epi32(v[2], 16));
  const Ints b = _mm512_mask_blend_epi16(halves, v[1], _mm512_slli_epi32(v[3], 16));
  const Ints c = _mm512_mask_blend_epi16(halves, _mm512_srli_epi32(v[0], 16), v[2]);
  const Ints d = _mm512_mask_blend_epi16(halves, _mm512_srli_epi32(v[1], 16), v[3]);
  v[0] = _mm512_mask_blend_epi8(bytes, a, _mm512_slli_epi16(b, 8));
  v[1] = _mm512_mask_blend_epi8(bytes, _mm512_srli_epi16(a, 8), b);
  v[2] = _mm512_mask_blend_epi8(bytes, c, _mm512_slli_epi16(d, 8));
  v[3] = _mm512_mask_blend_epi8(bytes, _mm512_srli_epi16(c, 8), d);
}
// Two numbers of 16 bits in a word: `join_halves` takes them from two words of small numbers, where only the other two know;
// those give word by word the lower, and the higher, ones of a and of b.
inline Ints join_halves(Ints low, Ints high) { return _mm512_packus_epi32(low, high); }
inline Ints low_halves(Ints a, Ints b) { return _mm512_unpacklo_epi16(a, b); }
inline Ints high_halves(Ints a, Ints b) { return _mm512_unpackhi_epi16(a, b); }
// The lower halves of two words as one.
inline Ints halves_of(Ints low, Ints high) { return _mm512_mask_blend_epi16(0xAAAAAAAAu, low, _mm512_slli_epi32(high, 16)); }
inline Ints add_halves(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
inline Ints sub_halves(Ints a, Ints b) { return _mm512_sub_epi16(a, b); }
// acc + the two products of the halves of each word.
inline Ints dot_halves(Ints acc, Ints a, Ints b) {
#ifdef DOVETAIL_VNNI
  asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));  // not the intrinsic: gcc copies its sums to and fro
  return acc;
#else
  return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#endif
}
// acc + the four products of unsigned codes and signed weights of each word, exactly.
inline Ints dot(Ints acc, Ints codes, Ints weights) {
#ifdef DOVETAIL_VNNI
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(weights));
  return acc;
#else
  const Ints low = _mm512_set1_epi16(255);
  const Ints even = _mm512_madd_epi16(_mm512_and_si512(codes, low), _mm512_srai_epi16(_mm512_slli_epi16(weights, 8), 8));
  const Ints odd = _mm512_madd_epi16(_mm512_srli_epi16(codes, 8), _mm512_srai_epi16(weights, 8));
  return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
#endif
}

// As in avx2.h; where bytes have dot products, those are the sums.
#ifdef DOVETAIL_VNNI
inline Ints add_signed(Ints acc, Ints codes, Ints signs) { return dot(acc, codes, signs); }
inline Ints signed_sum(Ints acc) { return acc; }
#else
inline Ints add_signed(Ints acc, Ints codes, Ints signs) { return _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, signs)); }
inline Ints signed_sum(Ints acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
#endif

// Sixteen numbers of float16.
struct Book {
  Vec numbers;
};
inline Book book_of(const float* p) { return {load(p)}; }
// Codes of 4 bits for eight vectors of numbers, or in half the bytes for four (see portable.h).
inline Ints load_codes(const uint8_t* p) { return load_words(p); }
inline Ints load_half_codes(const uint8_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
template <int Half>
inline void decode(const Book& book, Ints codes, Vec (&v)[4]) {  // the permutation takes the lowest four bits
  constexpr int from = 16 * Half;
  v[0] = _mm512_permutexvar_ps(from ? _mm512_srli_epi32(codes, from) : codes, book.numbers);
  v[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, from + 4), book.numbers);
  v[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, from + 8), book.numbers);
  v[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, from + 12), book.numbers);
}

}  // namespace dovetail::DOVETAIL_ISA
