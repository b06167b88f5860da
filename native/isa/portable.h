// Vectors of eight floats in plain C++: the meaning of the other two headers, and the path for every other CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace dovetail::portable {

constexpr int kLanes = 8;

struct Vec {
  float v[kLanes];
};

#define DOVETAIL_EACH for (int i = 0; i < kLanes; ++i)
inline Vec load(const float* p) { Vec a; std::memcpy(a.v, p, sizeof a.v); return a; }
inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
inline Vec in_register(Vec a) { return a; }
inline Vec load_halves(const float* a, const float* b) {
  Vec v;
  std::memcpy(v.v, a, sizeof v.v / 2);
  std::memcpy(v.v + kLanes / 2, b, sizeof v.v / 2);
  return v;
}
inline void store_halves(float* a, float* b, Vec v) {
  std::memcpy(a, v.v, sizeof v.v / 2);
  std::memcpy(b, v.v + kLanes / 2, sizeof v.v / 2);
}
// In every four lanes: {a0, b0, a1, b1}, {a2, b2, a3, b3}; {a0, a1, b0, b1}, {a2, a3, b2, b3}; {a0, a2, b0, b2}, {a1, a3, b1, b3}.
inline Vec pick(Vec a, Vec b, int i, int j, int k, int l) {
  Vec r;
  const int from[4] = {i, j, k, l};  // below 4 of a, then of b
  for (int at = 0; at < kLanes; at += 4)
    for (int n = 0; n < 4; ++n) r.v[at + n] = from[n] < 4 ? a.v[at + from[n]] : b.v[at + from[n] - 4];
  return r;
}
inline Vec zip_low(Vec a, Vec b) { return pick(a, b, 0, 4, 1, 5); }
inline Vec zip_high(Vec a, Vec b) { return pick(a, b, 2, 6, 3, 7); }
inline Vec join_low(Vec a, Vec b) { return pick(a, b, 0, 1, 4, 5); }
inline Vec join_high(Vec a, Vec b) { return pick(a, b, 2, 3, 6, 7); }
inline Vec evens(Vec a, Vec b) { return pick(a, b, 0, 2, 4, 6); }
inline Vec odds(Vec a, Vec b) { return pick(a, b, 1, 3, 5, 7); }
// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&v)[kLanes]) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) {
      const float kept = v[i].v[j];
      v[i].v[j] = v[j].v[i];
      v[j].v[i] = kept;
    }
}
// The lanes whose bit is set.
inline void store_lanes(float* p, Vec a, uint32_t bits) { DOVETAIL_EACH if (bits >> i & 1) p[i] = a.v[i]; }
inline Vec splat(float x) { Vec a; DOVETAIL_EACH a.v[i] = x; return a; }
inline Vec load_first(const float* p, int n) { Vec a = splat(0); for (int i = 0; i < n; ++i) a.v[i] = p[i]; return a; }
// Lanes 0, 2, … of a, then of b; and lanes 1, 3, ….
inline Vec lanes_from(Vec a, Vec b, int first) { Vec r; DOVETAIL_EACH r.v[i] = i < kLanes / 2 ? a.v[2 * i + first] : b.v[2 * i + first - kLanes]; return r; }
inline Vec even_lanes(Vec a, Vec b) { return lanes_from(a, b, 0); }
inline Vec odd_lanes(Vec a, Vec b) { return lanes_from(a, b, 1); }
// Lanes 1, 2, … of a, then lane 0 of b.
inline Vec moved_up(Vec a, Vec b) { Vec r; DOVETAIL_EACH r.v[i] = i + 1 < kLanes ? a.v[i + 1] : b.v[0]; return r; }
inline Vec load_evens(const float* p, int n) { Vec a = splat(0); for (int i = 0; i < n; ++i) a.v[i] = p[2 * i]; return a; }
inline void store_first(float* p, Vec a, int n) { for (int i = 0; i < n; ++i) p[i] = a.v[i]; }
inline Vec add(Vec a, Vec b) { DOVETAIL_EACH a.v[i] += b.v[i]; return a; }
inline Vec sub(Vec a, Vec b) { DOVETAIL_EACH a.v[i] -= b.v[i]; return a; }
inline Vec mul(Vec a, Vec b) { DOVETAIL_EACH a.v[i] *= b.v[i]; return a; }
inline Vec div(Vec a, Vec b) { DOVETAIL_EACH a.v[i] /= b.v[i]; return a; }
inline Vec fma(Vec a, Vec b, Vec c) { DOVETAIL_EACH c.v[i] += a.v[i] * b.v[i]; return c; }
inline Vec max(Vec a, Vec b) { DOVETAIL_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline Vec min(Vec a, Vec b) { DOVETAIL_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline Vec abs(Vec a) { DOVETAIL_EACH a.v[i] = std::fabs(a.v[i]); return a; }
inline Vec copy_sign(Vec a, Vec sign) { DOVETAIL_EACH a.v[i] = std::copysign(a.v[i], sign.v[i]); return a; }
// The bits of both.
inline Vec either(Vec a, Vec b) {
  DOVETAIL_EACH {
    uint32_t p, q;
    std::memcpy(&p, &a.v[i], sizeof p);
    std::memcpy(&q, &b.v[i], sizeof q);
    p |= q;
    std::memcpy(&a.v[i], &p, sizeof p);
  }
  return a;
}
// Lanes whose bit is clear become zero.
inline Vec keep(Vec a, uint32_t bits) { DOVETAIL_EACH a.v[i] = bits >> i & 1 ? a.v[i] : 0.0f; return a; }
// The same where many vectors keep the same lanes.
struct Mask {
  uint32_t bits;
};
inline Mask mask_of(uint32_t bits) { return {bits}; }
inline Vec keep(Vec a, Mask mask) { return keep(a, mask.bits); }
// 2^n for integral n in [-126, 127]; of NaN, which is no whole number, any power.
inline Vec exp2_integral(Vec n) {
  DOVETAIL_EACH {
    const int32_t word = (static_cast<int32_t>(n.v[i] > -127.0f ? n.v[i] : -126.0f) + 127) << 23;
    std::memcpy(&n.v[i], &word, sizeof word);
  }
  return n;
}
inline Vec round(Vec a) { DOVETAIL_EACH a.v[i] = std::nearbyint(a.v[i]); return a; }
inline float sum(Vec a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }

// Eight 32-bit words: whole numbers, or four codes each.
struct Ints {
  int32_t v[kLanes];
};
inline Ints load_words(const void* p) { Ints a; std::memcpy(a.v, p, sizeof a.v); return a; }
inline Ints lanes_from(Ints a, Ints b, int first) { Ints r; DOVETAIL_EACH r.v[i] = i < kLanes / 2 ? a.v[2 * i + first] : b.v[2 * i + first - kLanes]; return r; }
inline Ints even_lanes(Ints a, Ints b) { return lanes_from(a, b, 0); }
inline Ints odd_lanes(Ints a, Ints b) { return lanes_from(a, b, 1); }
inline void store_words(void* p, Ints a) { std::memcpy(p, a.v, sizeof a.v); }
inline Ints splat_word(int32_t x) { Ints a; DOVETAIL_EACH a.v[i] = x; return a; }
inline Ints load_words_first(const void* p, int n) { Ints a = splat_word(0); std::memcpy(a.v, p, n * sizeof(int32_t)); return a; }
inline void store_words_first(void* p, Ints a, int n) { std::memcpy(p, a.v, n * sizeof(int32_t)); }
// Sums and products wrap around, as those of vectors do.
inline uint32_t bits(int32_t x) { return static_cast<uint32_t>(x); }
inline Ints add(Ints a, Ints b) { DOVETAIL_EACH a.v[i] = static_cast<int32_t>(bits(a.v[i]) + bits(b.v[i])); return a; }
inline Ints sub(Ints a, Ints b) { DOVETAIL_EACH a.v[i] = static_cast<int32_t>(bits(a.v[i]) - bits(b.v[i])); return a; }
inline Ints mul(Ints a, Ints b) { DOVETAIL_EACH a.v[i] = static_cast<int32_t>(bits(a.v[i]) * bits(b.v[i])); return a; }
inline Ints either(Ints a, Ints b) { DOVETAIL_EACH a.v[i] |= b.v[i]; return a; }
// Lanes whose bit is clear become those of `other`.
inline Ints keep(Ints a, uint32_t bits, Ints other) { DOVETAIL_EACH a.v[i] = bits >> i & 1 ? a.v[i] : other.v[i]; return a; }
// b is added where its bit is set.
inline Ints add_where(Ints a, uint32_t bits, Ints b) { return add(a, keep(b, bits, splat_word(0))); }
inline Ints up(Ints a, int bits) { DOVETAIL_EACH a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << bits); return a; }
inline int32_t byte_of_word(int32_t word, int i) { return static_cast<int32_t>(static_cast<uint32_t>(word) >> 8 * i & 255u); }
inline Ints byte_of(Ints a, int i) { for (int32_t& word : a.v) word = byte_of_word(word, i); return a; }
inline Ints greater_bytes(Ints a, Ints b) {
  uint8_t p[sizeof a.v], q[sizeof b.v];
  std::memcpy(p, a.v, sizeof p);
  std::memcpy(q, b.v, sizeof q);
  for (size_t i = 0; i < sizeof p; ++i) p[i] = p[i] > q[i] ? p[i] : q[i];
  std::memcpy(a.v, p, sizeof p);
  return a;
}
// Lane i is lane from[i] of a.
inline Vec pick_lanes(Vec a, Ints from) { Vec r; DOVETAIL_EACH r.v[i] = a.v[from.v[i]]; return r; }
inline Ints pick_lanes(Ints a, Ints from) { Ints r; DOVETAIL_EACH r.v[i] = a.v[from.v[i]]; return r; }
// Lane i is lane from[i] of a, then of b: from 0 to twice the lanes.
inline Vec pick_of_two(Vec a, Vec b, Ints from) {
  Vec r;
  DOVETAIL_EACH r.v[i] = from.v[i] < kLanes ? a.v[from.v[i]] : b.v[from.v[i] - kLanes];
  return r;
}
inline Ints pick_of_two(Ints a, Ints b, Ints from) {
  Ints r;
  DOVETAIL_EACH r.v[i] = from.v[i] < kLanes ? a.v[from.v[i]] : b.v[from.v[i] - kLanes];
  return r;
}
template <int N>
inline Ints moved_up(Ints a, Ints b) { Ints r; DOVETAIL_EACH r.v[i] = i + N < kLanes ? a.v[i + N] : b.v[i + N - kLanes]; return r; }
inline Vec to_real(Ints a) { Vec r; DOVETAIL_EACH r.v[i] = static_cast<float>(a.v[i]); return r; }
inline Ints to_whole(Vec a) { Ints r; DOVETAIL_EACH r.v[i] = static_cast<int32_t>(std::nearbyint(a.v[i])); return r; }
inline int32_t sum(Ints a) { int32_t total = 0; for (int32_t word : a.v) total += word; return total; }
inline Ints expand_bytes(const uint8_t* p) { Ints a; DOVETAIL_EACH a.v[i] = p[i]; return a; }
inline Vec widen(const int8_t* p) { Vec a; DOVETAIL_EACH a.v[i] = p[i]; return a; }
inline void pack_bytes(uint8_t* p, Ints a) { DOVETAIL_EACH p[i] = static_cast<uint8_t>(a.v[i]); }
// Words of four codes, lane by lane: the nearest whole numbers plus `zeros` (each word two of 16 bits), bounded to bytes. NaN
// is taken for a small number.
inline Ints to_code_words(const Vec (&v)[4], Ints zeros) {
  Ints r;
  DOVETAIL_EACH {
    uint32_t word = 0;
    const float zero = static_cast<float>(zeros.v[i] & 0xFFFF);
    for (int b = 0; b < 4; ++b) {
      const float code = v[b].v[i] > -256.0f ? std::nearbyint(v[b].v[i] < 256.0f ? v[b].v[i] : 256.0f) + zero : 0.0f;
      word |= static_cast<uint32_t>(code < 0.0f ? 0.0f : code > 255.0f ? 255.0f : code) << 8 * b;
    }
    r.v[i] = static_cast<int32_t>(word);
  }
  return r;
}
// Byte j of word i becomes byte i of word j, lane by lane.
inline void transpose_bytes(Ints (&v)[4]) {
  const Ints from[4] = {v[0], v[1], v[2], v[3]};
  for (int j = 0; j < 4; ++j)
    DOVETAIL_EACH {
      uint32_t word = 0;
      for (int b = 0; b < 4; ++b) word |= bits(byte_of_word(from[b].v[i], j)) << 8 * b;
      v[j].v[i] = static_cast<int32_t>(word);
    }
}
// Two numbers of 16 bits in a word: `join_halves` takes them from two words of small numbers, where only the other two know;
// those give word by word the lower, and the higher, ones of a and of b.
inline int32_t word_of_halves(uint32_t low, uint32_t high) { return static_cast<int32_t>((low & 0xFFFFu) | high << 16); }
inline Ints join_halves(Ints low, Ints high) { DOVETAIL_EACH low.v[i] = word_of_halves(bits(low.v[i]), bits(high.v[i])); return low; }
inline Ints low_halves(Ints a, Ints b) { return join_halves(a, b); }
inline Ints high_halves(Ints a, Ints b) { DOVETAIL_EACH a.v[i] = word_of_halves(bits(a.v[i]) >> 16, bits(b.v[i]) >> 16); return a; }
// The lower halves of two words as one.
inline Ints halves_of(Ints low, Ints high) { return join_halves(low, high); }
inline Ints add_halves(Ints a, Ints b) {
  DOVETAIL_EACH a.v[i] = word_of_halves(bits(a.v[i]) + bits(b.v[i]), (bits(a.v[i]) >> 16) + (bits(b.v[i]) >> 16));
  return a;
}
inline Ints sub_halves(Ints a, Ints b) {
  DOVETAIL_EACH a.v[i] = word_of_halves(bits(a.v[i]) - bits(b.v[i]), (bits(a.v[i]) >> 16) - (bits(b.v[i]) >> 16));
  return a;
}
inline int32_t half_of_word(int32_t word, int i) { return static_cast<int16_t>(bits(word) >> 16 * i & 0xFFFFu); }
// acc + the two products of the halves of each word; what wraps around on the way comes back.
inline Ints dot_halves(Ints acc, Ints a, Ints b) {
  DOVETAIL_EACH
    for (int h = 0; h < 2; ++h) acc.v[i] = static_cast<int32_t>(bits(acc.v[i]) + bits(half_of_word(a.v[i], h) * half_of_word(b.v[i], h)));
  return acc;
}
// acc + the four products of unsigned codes and signed weights of each word, exactly.
inline Ints dot(Ints acc, Ints codes, Ints weights) {
  DOVETAIL_EACH
    for (int b = 0; b < 4; ++b)
      acc.v[i] += byte_of_word(codes.v[i], b) * static_cast<int8_t>(byte_of_word(weights.v[i], b));
  return acc;
}
// As in avx2.h.
inline Ints add_signed(Ints acc, Ints codes, Ints signs) { return dot(acc, codes, signs); }
inline Ints signed_sum(Ints acc) { return acc; }
// Sixteen numbers of float16, and codes of 4 bits into them. With eight lanes the code of vector q + 4 n, lane 4 h + i, is half
// n (the lower one first) of byte 16 h + 4 q + i; of four vectors in half the bytes that of vector q, lane 4 h + i, is half h of
// byte 4 q + i. With sixteen lanes the code of vector k, lane l, is the k-th of word l, or of half word l.
struct Book {
  float numbers[16];
};
inline Book book_of(const float* p) { Book book; std::memcpy(book.numbers, p, sizeof book.numbers); return book; }
inline Ints load_codes(const uint8_t* p) { return load_words(p); }
inline Ints load_half_codes(const uint8_t* p) {
  uint8_t bytes[32];
  for (int i = 0; i < 16; ++i) bytes[i] = p[i], bytes[16 + i] = static_cast<uint8_t>(p[i] >> 4);
  return load_words(bytes);
}
template <int Half>
inline void decode(const Book& book, Ints codes, Vec (&v)[4]) {
  for (int q = 0; q < 4; ++q)
    DOVETAIL_EACH v[q].v[i] = book.numbers[byte_of_word(codes.v[4 * (i / 4) + q], i % 4) >> 4 * Half & 15];
}
#undef DOVETAIL_EACH

}  // namespace dovetail::portable
