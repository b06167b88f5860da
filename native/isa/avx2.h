// Vectors of eight floats with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../engine/guard.h"

namespace dovetail::avx2 {

constexpr int kLanes = 8;
using Vec = __m256;

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
// Loaded once, however often it is used: gcc would rather load it anew for every use.
inline Vec in_register(Vec a) { asm("" : "+x"(a)); return a; }
inline Vec load_halves(const float* a, const float* b) { return _mm256_set_m128(_mm_loadu_ps(b), _mm_loadu_ps(a)); }
inline void store_halves(float* a, float* b, Vec v) {
  _mm_storeu_ps(a, _mm256_castps256_ps128(v));
  _mm_storeu_ps(b, _mm256_extractf128_ps(v, 1));
}
// In every four lanes: {a0, b0, a1, b1}, {a2, b2, a3, b3}; {a0, a1, b0, b1}, {a2, a3, b2, b3}; {a0, a2, b0, b2}, {a1, a3, b1, b3}.
inline Vec zip_low(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
inline Vec zip_high(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }
inline Vec join_low(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0x44); }
inline Vec join_high(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0xEE); }
inline Vec evens(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0x88); }
inline Vec odds(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0xDD); }
// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&v)[kLanes]) {
  Vec r[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = zip_low(v[i], v[i + 1]), b = zip_high(v[i], v[i + 1]), c = zip_low(v[i + 2], v[i + 3]), d = zip_high(v[i + 2], v[i + 3]);
    r[i] = join_low(a, c), r[i + 1] = join_high(a, c), r[i + 2] = join_low(b, d), r[i + 3] = join_high(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
}
// The lanes whose bit is set.
inline void store_lanes(float* p, Vec a, uint32_t bits) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a);
  for (int i = 0; i < kLanes; ++i)
    if (bits >> i & 1) p[i] = lanes[i];
}
inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline __m256i lanes_below(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
inline Vec load_first(const float* p, int n) { touch(p, n); return _mm256_maskload_ps(p, lanes_below(n)); }
// Lanes 0, 2, … of a, then of b; and lanes 1, 3, ….
inline Vec even_lanes(Vec a, Vec b) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xD8));
}
inline Vec odd_lanes(Vec a, Vec b) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD)), 0xD8));
}
// Lanes 1, 2, … of a, then lane 0 of b.
inline Vec moved_up(Vec a, Vec b) {
  const __m256i x = _mm256_castps_si256(a), y = _mm256_castps_si256(b);
  return _mm256_castsi256_ps(_mm256_alignr_epi8(_mm256_permute2x128_si256(x, y, 0x21), x, 4));
}
inline Vec load_evens(const float* p, int n) {
  return even_lanes(load_first(p, 2 * n - 1), n > 4 ? load_first(p + 8, 2 * n - 9) : splat(0.0f));
}
// Masked stores are microcoded on several CPUs; a short loop is not.
inline void store_first(float* p, Vec a, int n) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vec copy_sign(Vec a, Vec sign) { return _mm256_or_ps(abs(a), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
inline Vec either(Vec a, Vec b) { return _mm256_or_ps(a, b); }
// The lanes to keep.
struct Mask {
  Vec lanes;
};
inline Mask mask_of(uint32_t bits) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit))};
}
inline Vec keep(Vec a, Mask mask) { return _mm256_and_ps(a, mask.lanes); }
inline Vec keep(Vec a, uint32_t bits) { return keep(a, mask_of(bits)); }
inline Vec exp2_integral(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}


// Eight 32-bit words: whole numbers, or four codes each.
using Ints = __m256i;
inline Ints load_words(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Ints load_words_first(const void* p, int n) {
  const auto* words = static_cast<const int*>(p);
  touch(words, n);
  return _mm256_maskload_epi32(words, lanes_below(n));
}
inline Ints even_lanes(Ints a, Ints b) { return _mm256_castps_si256(even_lanes(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))); }
inline Ints odd_lanes(Ints a, Ints b) { return _mm256_castps_si256(odd_lanes(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))); }
inline void store_words(void* p, Ints a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline void store_words_first(void* p, Ints a, int n) {
  alignas(32) int32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(int32_t));
}
inline Ints splat_word(int32_t x) { return _mm256_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints mul(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Ints either(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints keep(Ints a, uint32_t bits, Ints other) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
  return _mm256_blendv_epi8(other, a, set);
}
inline Ints add_where(Ints a, uint32_t bits, Ints b) { return add(a, keep(b, bits, splat_word(0))); }
inline Ints up(Ints a, int bits) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
inline Ints byte_of(Ints a, int i) { return _mm256_and_si256(_mm256_srl_epi32(a, _mm_cvtsi32_si128(8 * i)), _mm256_set1_epi32(255)); }
inline Ints greater_bytes(Ints a, Ints b) { return _mm256_max_epu8(a, b); }
// Lane i is lane from[i] of a.
inline Vec pick_lanes(Vec a, Ints from) { return _mm256_permutevar8x32_ps(a, from); }
inline Ints pick_lanes(Ints a, Ints from) { return _mm256_permutevar8x32_epi32(a, from); }
// Lane i is lane from[i] of a, then of b: from 0 to twice the lanes.
inline Vec pick_of_two(Vec a, Vec b, Ints from) {
  const Vec second = _mm256_castsi256_ps(_mm256_slli_epi32(from, 28));
  return _mm256_blendv_ps(pick_lanes(a, from), pick_lanes(b, from), second);
}
inline Ints pick_of_two(Ints a, Ints b, Ints from) {
  return _mm256_castps_si256(pick_of_two(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), from));
}
// Lanes N, N + 1, … of a, then the first N of b.
template <int N>
inline Ints moved_up(Ints a, Ints b) {
  static_assert(N == kLanes / 2, "halves of vectors only");
  return _mm256_permute2x128_si256(a, b, 0x21);
}
inline Vec to_real(Ints a) { return _mm256_cvtepi32_ps(a); }
inline Ints to_whole(Vec a) { return _mm256_cvtps_epi32(a); }
inline int32_t sum(Ints a) {
  alignas(32) int32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
  int32_t total = 0;
  for (int32_t lane : lanes) total += lane;
  return total;
}
inline Ints expand_bytes(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
inline Vec widen(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))); }
inline void pack_bytes(uint8_t* p, Ints a) {
  alignas(32) int32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(lanes[i]);
}
// Words of four codes, lane by lane: the nearest whole numbers plus `zeros` (each word two of 16 bits), bounded to bytes. NaN
// is taken for a small number.
inline Ints to_code_words(const Vec (&v)[4], Ints zeros) {
  const Vec most = _mm256_set1_ps(32767.0f);
  const auto whole = [&](int i) { return _mm256_cvtps_epi32(_mm256_min_ps(most, v[i])); };
  const Ints low = _mm256_adds_epi16(_mm256_packs_epi32(whole(0), whole(1)), zeros);
  const Ints high = _mm256_adds_epi16(_mm256_packs_epi32(whole(2), whole(3)), zeros);
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), _mm256_broadcastsi128_si256(order));
}
// Byte j of word i becomes byte i of word j, lane by lane.
inline void transpose_bytes(Ints (&v)[4]) {
  const __m256i odd = _mm256_set1_epi16(static_cast<int16_t>(0xFF00));
  const Ints a = _mm256_blend_epi16(v[0], _mm256_slli_epi32(v[2], 16), 0xAA);
  const Ints b = _mm256_blend_epi16(v[1], _mm256_slli_epi32(v[3], 16), 0xAA);
  const Ints c = _mm256_blend_epi16(_mm256_srli_epi32(v[0], 16), v[2], 0xAA);
  const Ints d = _mm256_blend_epi16(_mm256_srli_epi32(v[1], 16), v[3], 0xAA);
  v[0] = _mm256_blendv_epi8(a, _mm256_slli_epi16(b, 8), odd);
  v[1] = _mm256_blendv_epi8(_mm256_srli_epi16(a, 8), b, odd);
  v[2] = _mm256_blendv_epi8(c, _mm256_slli_epi16(d, 8), odd);
  v[3] = _mm256_blendv_epi8(_mm256_srli_epi16(c, 8), d, odd);
}
// Two numbers of 16 bits in a word: `join_halves` takes them from two words of small numbers, where only the other two know;
// those give word by word the lower, and the higher, ones of a and of b.
inline Ints join_halves(Ints low, Ints high) { return _mm256_packus_epi32(low, high); }
inline Ints low_halves(Ints a, Ints b) { return _mm256_unpacklo_epi16(a, b); }
inline Ints high_halves(Ints a, Ints b) { return _mm256_unpackhi_epi16(a, b); }
// The lower halves of two words as one.
inline Ints halves_of(Ints low, Ints high) { return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xAA); }
inline Ints add_halves(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
inline Ints sub_halves(Ints a, Ints b) { return _mm256_sub_epi16(a, b); }
// acc + the two products of the halves of each word.
inline Ints dot_halves(Ints acc, Ints a, Ints b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
// acc + the four products of unsigned codes and signed weights of each word; exact, as `maddubs` (which saturates) is not.
inline Ints dot(Ints acc, Ints codes, Ints weights) {
  const Ints low = _mm256_set1_epi16(255);
  const Ints even = _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
  const Ints odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(weights, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}

// Adds to `acc` a word's codes, each times -1, 0 or 1; `signed_sum` makes a sum of what has come together, of up to 128 codes of
// either sign. That is two numbers of 16 bits a word here: twice a code is nothing that `maddubs` would cut.
inline Ints add_signed(Ints acc, Ints codes, Ints signs) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, signs)); }
inline Ints signed_sum(Ints acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }

// Sixteen numbers of float16, which in float32 have a lowest byte of zero: tables of the other three.
struct Book {
  Ints bytes[3];
};
inline Book book_of(const float* p) {
  Book book;
  for (int b = 0; b < 3; ++b) {
    alignas(16) uint8_t table[16];
    for (int i = 0; i < 16; ++i) {
      uint32_t word;
      std::memcpy(&word, p + i, sizeof word);
      table[i] = static_cast<uint8_t>(word >> 8 * (b + 1));
    }
    book.bytes[b] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  return book;
}
// Codes of 4 bits for eight vectors of numbers, or in half the bytes for four (see portable.h).
inline Ints load_codes(const uint8_t* p) { return load_words(p); }
inline Ints load_half_codes(const uint8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_set_m128i(_mm_srli_epi16(codes, 4), codes);
}
template <int Half>
inline void decode(const Book& book, Ints codes, Vec (&v)[4]) {
  codes = _mm256_and_si256(Half ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
  const Ints b = _mm256_shuffle_epi8(book.bytes[0], codes), c = _mm256_shuffle_epi8(book.bytes[1], codes);
  const Ints d = _mm256_shuffle_epi8(book.bytes[2], codes), zero = _mm256_setzero_si256();
  const Ints low = _mm256_unpacklo_epi8(zero, b), high = _mm256_unpacklo_epi8(c, d);
  const Ints low2 = _mm256_unpackhi_epi8(zero, b), high2 = _mm256_unpackhi_epi8(c, d);
  v[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
  v[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
  v[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low2, high2));
  v[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low2, high2));
}

}  // namespace dovetail::avx2
