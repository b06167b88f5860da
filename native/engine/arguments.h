// Arguments of every kernel, declared once.
//
// Each kernel takes one plain struct. Its fields are listed by a macro, so that the struct and the table by which
// Python fills it (name, kind, offset) cannot drift apart:
//   P(type, name)      a pointer                     given as an integer address
//   I(name)            a 64-bit integer
//   A(name, count)     an array of 64-bit integers   given as a list of that length
//   F(name)            a float
// All strides and offsets count elements, not bytes. A pointer to a planar tensor points at its element (0, 0, 0, 0);
// the halo lies at negative and at later offsets (see docs/engine.md).
#pragma once

#include <cstddef>
#include <cstdint>

namespace dovetail {

enum class Activation : int64_t { none, relu, clamp, leaky_relu, hardswish, sigmoid, tanh, silu, gelu, gelu_tanh };

// What every product ends in: y = activation(product + bias + residual). Scales are folded into f32 weights.
#define DOVETAIL_EPILOGUE(P, I, A, F) \
  P(const float, bias) P(const float, residual) I(r_image) I(r_channel) I(activation) F(act_a) F(act_b)

// A planar output: strides, the zeros that the kernel keeps before each plane (and after the last).
#define DOVETAIL_PLANES(P, I, A, F) \
  P(const float, x) P(float, y) I(images) I(x_image) I(x_channel) I(y_image) I(y_channel) I(lead)

// Pixels are visited in runs: `run_count` records of (x offset, y offset, pixels, first mask), int32 each; a run covers
// ceil(pixels / lanes) vectors. Lanes whose mask bit is clear are written as zero: they lie in the halo.
#define DOVETAIL_RUNS(P, I, A, F) P(const int32_t, runs) I(run_count) P(const uint32_t, masks)

// Dense convolution. Weights: per output block [C/groups][taps][block]. `taps` offsets reach from an output pixel's
// x offset to its taps. `blocks` = block_count records of (group, first output, outputs, weight offset), int32 each. `planes`: x
// offset of each of the `channels` inputs of each group, null where they lie in order; `places`: which channel each output is.
#define DOVETAIL_CONV_DENSE(P, I, A, F)                                                            \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F)              \
  P(const float, weight) P(const int32_t, taps) I(tap_count) I(channels) I(out_channels)           \
  P(const int64_t, planes) P(const int32_t, places)                                                \
  P(const int32_t, blocks) I(block_count) I(blocks_outer)

// Dense convolution of small maps, one group. Weights: per block of vectors of outputs [channels][taps][lanes of the
// block], the last one filled up with zeros, like the bias. `pixels`: x offsets of the pixels, row by row; `runs`, of a
// row or of all rows of a segment, have their first pixel in the place of its x offset. `segments`: segment_count records of (first run, runs,
// first pixel, pixels), int32 each, of at most `most_pixels` pixels. `blocks`: block_count records of (first vector,
// vectors) of outputs.
#define DOVETAIL_LANES(P, I, A, F)                                                                   \
  P(const int32_t, taps) I(tap_count) I(channels) I(out_channels) P(const int32_t, pixels)           \
  P(const int32_t, segments) I(segment_count) I(most_pixels) P(const int32_t, blocks) I(block_count)
#define DOVETAIL_CONV_LANES(P, I, A, F)                                                              \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F)                \
  P(const float, weight) DOVETAIL_LANES(P, I, A, F)

// Depthwise convolution: weights [channels][side * side], side 3 or 5, stride 1 or 2. `height` rows of `width` outputs lie
// `y_row` apart in planes of `room` elements; `x_height` rows of `x_width` pixels, `x_row` apart, are taken as surrounded by
// zeros, whatever lies there.
#define DOVETAIL_CONV_DEPTHWISE(P, I, A, F)                                                          \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F) P(const float, weight) I(channels)       \
  I(side) I(stride) I(pad_top) I(pad_left) I(x_height) I(x_width) I(x_row) I(height) I(width) I(y_row) I(room)

// The same of what a 1x1 convolution (`expand_…`, of `inputs` channels) makes of x, neither of them with a residual. Both
// weights and biases are filled up to whole vectors of channels: `weight` is [vectors][side * side][lanes], `expand` has per
// unit's vectors [inputs][lanes of the vectors]. `pixels`: x offsets of all pixels, row by row; `places`: where they go in a
// ring of `ring_rows` rows of `ring_row` pixels. `units`: unit_count records of (first vector, vectors, first row, rows) of
// the output, int32 each, done `band` rows at a time, whose results lie `results` from the start of scratch.
#define DOVETAIL_CONV_EXPANDED(P, I, A, F)                                                           \
  DOVETAIL_PLANES(P, I, A, F) P(const float, weight) P(const float, bias) I(activation) F(act_a) F(act_b) \
  P(const float, expand) P(const float, expand_bias) I(expand_activation) F(expand_a) F(expand_b)    \
  I(inputs) I(channels) I(side) I(stride) I(pad_top) I(pad_left) I(x_height) I(x_width)              \
  I(height) I(width) I(y_row) I(room) P(const int32_t, pixels) P(const int32_t, places)              \
  I(ring_rows) I(ring_row) P(const int32_t, units) I(unit_count) I(band) I(results)

// Dense 3x3 convolution of unit stride by tiles of `tile` x `tile` outputs, or, with `tile` 0, of rows by four outputs. `lines`: x
// offsets of the channels (of rows, their lines), `channels` of them for each group of channels. Weights, transformed, per block
// [places][channels][outputs of the block]; blocks of 4, 8, 12 or 16 outputs, the last one of a group filled up with zeros;
// `places`: the output channel of each, -1 for none. `groups`: group_count records of nine int32 (conv_winograd.inl), four to a
// vector, `vectors` vectors to a unit. `narrow`: rows shorter than a group.
#define DOVETAIL_CONV_WINOGRAD(P, I, A, F)                                                      \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F) P(const float, weight) I(tile)      \
  I(x_row) I(y_row) I(channels) I(out_channels) P(const int32_t, groups) I(group_count) I(vectors) \
  I(narrow) P(const int32_t, blocks) I(block_count) P(const int32_t, lines) P(const int32_t, places)

// The convolutions of a Tucker layer, a block of rows at a time (conv_tucker.inl). `strips`: strip_count records of (first
// call, calls), `calls`: of (kernel, offset into `arguments`, bytes of them, first pointer, pointers), `pointers`: of (field,
// base, offset), int64 each. What lies between the convolutions takes the first `scratch` elements of scratch.
#define DOVETAIL_CONV_TUCKER(P, I, A, F)                                                             \
  P(const float, x) P(float, y) P(const float, residual) I(images) I(x_image) I(y_image) I(r_image)  \
  P(const void, strips) I(strip_count) P(const void, calls) P(const void, pointers) P(const void, arguments) I(scratch)

// Unstructured sparse convolution. `entries`: (x offset, weight) pairs of 4 + 4 bytes, output by output; `starts`:
// out_channels + 1 positions in them. `chains`: 1, 2 or 4 sums into which the entries of an output go in turn.
#define DOVETAIL_CONV_SPARSE(P, I, A, F)                                              \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F) \
  P(const void, entries) P(const int64_t, starts) I(out_channels) I(blocks_outer) I(chains)

// The same by columns of the kernel (conv_sparse_columns.inl). `tiles`: tile_count records of (x offset, first run, runs, how
// many of them, at the end, may be longer than the first or than a vector, vectors), int32 each, of at most `most_vectors`
// vectors; the x offset of a run is that of its sums, and `y_row` lies between two runs of a tile. A vector is a line: pixels
// of `line_rows` rows (1, 2 or 4), `x_row` apart, each with its share of the lanes, `step` (1 or 2) apart.
// `strips`: the lines that a channel needs, strip_count records of (x offset, lines more than the tile has), int32 each;
// line_count of them in all. `starts`: where the list of each (block of channels, output, column) begins, and the last
// one's end; entries hold offsets into a block's lines. `turns`: for each column but the last, which stays where it is,
// the lane that each lane gets, and a mask of those that get one.
#define DOVETAIL_COLUMNS(P, I, A, F)                                                                      \
  P(const int32_t, tiles) I(tile_count) I(most_vectors) I(line_rows) I(x_row) I(y_row) I(step)            \
  P(const int32_t, strips) I(strip_count) I(line_count) P(const void, entries) P(const int32_t, starts)   \
  P(const int32_t, turns) I(column_count) I(channels) I(block_count) I(out_channels) I(group_count)
#define DOVETAIL_CONV_COLUMNS(P, I, A, F)                                             \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F) \
  DOVETAIL_COLUMNS(P, I, A, F)

// Shared kernel bases, conv-first: every used input channel meets all bases; sparse combinations of the maps follow.
// `bases`: [taps][base_count]; `used`: x offsets of the used channels; `entries`: (scratch offset, coefficient) pairs, where
// the map of the u-th used channel and basis b lies at (u * base_count + b) * map_stride of the thread's scratch.
// With `x_row` (and `y_row`) a vector is two rows of half its lanes, that far apart: maps as wide as half a vector.
#define DOVETAIL_CONV_BASIS(P, I, A, F)                                                            \
  DOVETAIL_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_EPILOGUE(P, I, A, F)              \
  P(const float, bases) I(base_count) P(const int32_t, taps) I(tap_count)                          \
  P(const int64_t, used) I(used_count) I(map_stride) I(x_row) I(y_row) P(const void, entries) P(const int64_t, starts) I(out_channels) I(chains)

// y[b, m, n] = activation(sum_c x[b, m, c] w[b, c, n] + bias[n] + residual[m, n], of one batch); w is blocked in `w_block` columns,
// each block [c][w_row], or plain rows where w_block >= columns. A w_batch of 0 shares w between batches.
#define DOVETAIL_GEMM(P, I, A, F)                                                                       \
  P(const float, x) P(const float, w) P(float, y) I(batch) I(rows) I(inner) I(columns)                  \
  I(x_batch) I(x_row) I(w_batch) I(w_row) I(w_block) I(w_block_stride) I(y_batch) I(y_row)              \
  P(const float, bias) P(const float, residual) I(r_row) I(activation) F(act_a) F(act_b)

// y[m, k] = activation(sum over entries of k of weight * x[m, offset] + bias[k] + residual[m, k]).
#define DOVETAIL_LINEAR_SPARSE(P, I, A, F)                                                              \
  P(const float, x) P(float, y) I(rows) I(columns) I(x_row) I(y_row) P(const void, entries)             \
  P(const int64_t, starts) P(const float, bias) P(const float, residual) I(r_row) I(activation) F(act_a) F(act_b)

// Several dense products, one a class, between two orders of channels: y[m, place] = activation(scale * sum_c w[c] x[m, c] +
// bias + residual[m, place]). Outputs lie in vectors, class by class; `places` has for every lane the output that it is, -1
// where it is none, and scale (null: 1) and bias lie in the same order. `blocks`: block_count records of (class, first vector,
// vectors), int32 each; a block's weights are [inner][vectors][lanes], from first vector * inner * lanes on. `inputs`: x offset
// of each of the `inner` inputs of each class, -1 where there is none; null where x already lies class by class.
#define DOVETAIL_LINEAR_CLASSES(P, I, A, F)                                                              \
  P(const float, x) P(float, y) I(rows) I(x_row) I(y_row) P(const int32_t, inputs) I(inner)              \
  P(const void, w) P(const int32_t, blocks) I(block_count) P(const int32_t, places) P(const float, book) \
  P(const float, scale) P(const float, bias) P(const float, residual) I(r_row) I(activation) F(act_a) F(act_b)

// Blocks of `size` by `size`, in `columns` columns, that keep a diagonal each. `blocks`: block_count records of (first vector,
// vectors of sums, first output within a block, place in `shifts`), int32 each; weights of a block are [columns][vectors][lanes].
// `shifts`: with rows_in_lanes a byte for each lane in every column, else c + k in 16 bits for each vector. `inputs`: real ones.
#define DOVETAIL_LINEAR_DIAGONALS(P, I, A, F)                                                           \
  P(const float, x) P(float, y) I(rows) I(x_row) I(y_row) I(inputs) I(columns) I(size)                  \
  P(const float, w) P(const int32_t, blocks) I(block_count) P(const void, shifts) I(rows_in_lanes)      \
  P(const int32_t, places) P(const float, bias) P(const float, residual) I(r_row) I(activation) F(act_a) F(act_b)

// Products of spectra (circulant.inl), `size` numbers each: x [batch][columns][size], y [batch][rows][size]. `blocks`: block_count
// records of (first vector, vectors) of block rows, int32 each, `vectors` in all, the last one filled up with zeros; w has per
// frequency and block [columns][its numbers][vectors][lanes].
#define DOVETAIL_CIRCULANT(P, I, A, F)                                                                        \
  P(const float, x) P(const float, w) P(float, y) P(const int32_t, blocks) I(block_count) I(vectors) I(batch) \
  I(rows) I(columns) I(size)

// y[m, i] = x[m, from[i]], zero where that is -1.
#define DOVETAIL_TAKE(P, I, A, F) \
  P(const float, x) P(float, y) P(const int32_t, from) I(rows) I(columns) I(x_row) I(y_row)

// y = activation(scale * x + bias + r) (multiply = 0) or activation(x * r) (multiply = 1), over six nested dimensions
// with any strides; a null operand is left out.
#define DOVETAIL_POINTWISE(P, I, A, F)                                                             \
  P(const float, x) P(const float, r) P(const float, scale) P(const float, bias) P(float, y)       \
  A(size, 6) A(x_stride, 6) A(r_stride, 6) A(c_stride, 6) A(y_stride, 6)                           \
  I(multiply) I(activation) F(act_a) F(act_b)

// y = x over six nested dimensions with any strides.
#define DOVETAIL_COPY(P, I, A, F) P(const float, x) P(float, y) A(size, 6) A(x_stride, 6) A(y_stride, 6)

// y = the 32 bits of `word` over six nested dimensions with any strides.
#define DOVETAIL_FILL(P, I, A, F) P(int32_t, y) A(size, 6) A(y_stride, 6) I(word)

// `word` around the pixels of planes: `lead` before each and after the last, `gap` after each row, `rest` after the last row.
#define DOVETAIL_HALO(P, I, A, F) \
  P(int32_t, y) I(images) I(channels) I(height) I(width) I(y_image) I(y_channel) I(pitch) I(lead) I(rest) I(word)

// The pixels of each residue (row modulo stride_h, column modulo stride_w) in planes of `rows` rows of their own, those of
// one residue after those of another: `places` has the turn of each of the stride_h * stride_w residues, of `phases`, or
// -1 where nobody reads it. Everything else in the planes is `word`.
#define DOVETAIL_DEAL(P, I, A, F) \
  P(const int32_t, x) P(int32_t, y) P(const int32_t, places) I(phases) I(images) I(channels) I(height) I(width) \
  I(stride_h) I(stride_w) I(x_image) I(x_channel) I(x_row) I(x_column) I(y_image) I(y_channel) I(rows) I(pitch) \
  I(lead) I(body) I(word)

// Max (average = 0) or average pooling over clipped windows; `include_pad` divides by the whole window.
#define DOVETAIL_POOL(P, I, A, F)                                                                       \
  P(const float, x) P(float, y) I(images) I(channels) I(height) I(width) I(out_height) I(out_width)     \
  I(x_image) I(x_channel) I(x_row) I(y_image) I(y_channel) I(y_row) I(kernel_h) I(kernel_w) I(stride_h) \
  I(stride_w) I(dilation_h) I(dilation_w) I(pad_top) I(pad_left) I(average) I(include_pad)

// Adaptive pooling: output i covers inputs floor(i H / H') up to ceil((i + 1) H / H').
#define DOVETAIL_ADAPTIVE_POOL(P, I, A, F)                                                          \
  P(const float, x) P(float, y) I(images) I(channels) I(height) I(width) I(out_height) I(out_width) \
  I(x_image) I(x_channel) I(x_row) I(y_image) I(y_channel) I(y_row) I(average)

// Mean over three nested dimensions (`inner`) for each element of four others (`outer`).
#define DOVETAIL_MEAN(P, I, A, F) \
  P(const float, x) P(float, y) A(outer, 4) A(x_outer, 4) A(y_outer, 4) A(inner, 3) A(x_inner, 3)

// Softmax over contiguous rows.
#define DOVETAIL_SOFTMAX(P, I, A, F) P(const float, x) P(float, y) I(rows) I(columns)

// Layer norm over contiguous rows: (x - mean) / sqrt(var + eps) * weight + bias; weight and bias may be null.
#define DOVETAIL_LAYER_NORM(P, I, A, F) \
  P(const float, x) P(float, y) P(const float, weight) P(const float, bias) I(rows) I(columns) F(eps)

// Codes: tensors of uint8 are planes (or rows) of 32-bit words, four channels each, so that all layouts and offsets of
// floats hold for them. What they mean is in program/integer.py.

// From sums to results: activation(float32(sum) * multiplier + residual), as codes between `low` and `high` (zero
// included), or with `real` as float32 in planes of single channels. A residual of codes is ratio * (code - r_zero).
#define DOVETAIL_ROUNDING(P, I, A, F)                                                               \
  P(const int32_t, bias) P(const float, multiplier) P(const void, residual) I(r_image) I(r_channel) \
  F(r_ratio) I(r_zero) I(real) I(zero) I(low) I(high) I(activation) F(act_a) F(act_b)

#define DOVETAIL_CODE_PLANES(P, I, A, F) \
  P(const int32_t, x) P(void, y) I(images) I(x_image) I(x_channel) I(y_image) I(y_channel) I(lead)

// As DOVETAIL_CONV_DENSE, over words: weights per block [words of C/groups][taps][block], blocks of 4 or 8 outputs.
#define DOVETAIL_CONV_DENSE_CODES(P, I, A, F)                                                \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F)   \
  P(const int32_t, weight) P(const int32_t, taps) I(tap_count) I(channels) I(out_channels)   \
  P(const int32_t, blocks) I(block_count) I(blocks_outer)

// As DOVETAIL_CONV_LANES, over words; `channels` counts words.
#define DOVETAIL_CONV_LANES_CODES(P, I, A, F)                                                \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F)   \
  P(const int32_t, weight) DOVETAIL_LANES(P, I, A, F)

// Sparse convolution in blocks of four input channels: `entries` are (x offset, word of four weights) pairs.
#define DOVETAIL_CONV_SPARSE_CODES(P, I, A, F)                                             \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const void, entries) P(const int64_t, starts) I(out_channels) I(blocks_outer)

// The same by columns of the kernel; `channels` counts words.
#define DOVETAIL_CONV_COLUMNS_CODES(P, I, A, F)                                            \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  DOVETAIL_COLUMNS(P, I, A, F)

// Shared kernel bases over codes, conv-first: as DOVETAIL_CONV_BASIS, with maps and coefficients in whole numbers. `taps` are
// `quad_count` times four (those missing are weighted by zero); `bases`: [quads][base_count] words of the weights of four
// taps; `used`: x offsets of the used words of channels. The map of channel c of word u and basis b lies at
// ((4 u + c) * base_count + b) * map_stride of the thread's scratch. Where all coefficients are 1 or -1, the latter of each list
// begin at its `splits`, else that is null.
#define DOVETAIL_CONV_BASIS_CODES(P, I, A, F)                                              \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const int32_t, bases) I(base_count) P(const int32_t, taps) I(quad_count)               \
  P(const int64_t, used) I(used_count) I(map_stride) P(const void, entries) P(const int64_t, starts) P(const int64_t, splits) I(out_channels)

// The same, coefficients first, where those are -1, 0 and 1 (conv_coefficients.inl). `tiles`: tile_count records of (x offset,
// first run, runs, vectors of 16-bit numbers that an input channel needs, vectors of sums), int32 each, at most
// `most_halves` and `most_vectors` of them; the x offset of a run is that of its sums. A row is `row_lanes` pixels, `step` (1 or 2)
// apart, rows are `x_row` apart; `phases`: x offsets of phase_count such planes. `places`: word offsets of input channels' lines, for
// each output and basis (an even number) those of the coefficients 1 and of the coefficients -1 (where four outputs share their
// places: for four outputs and a basis these two lists of eight classes); `starts`: where each of these lists begins, and the last one's end. `entries`: per column of the kernel (offset into the pairs of sums, word of two weights); `basis_starts`, of
// these lists; `turns`: for each column but the last the lane that each lane gets, and four masks of those that get one: in
// even and odd vectors from their own, from even vectors in odd ones and the reverse (rows of two vectors).
#define DOVETAIL_CONV_COEFFICIENTS(P, I, A, F)                                             \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const int32_t, tiles) I(tile_count) I(most_halves) I(most_vectors) I(row_lanes) I(x_row) I(step) \
  P(const int32_t, phases) I(phase_count) P(const int32_t, places) P(const int32_t, starts) I(base_count) \
  P(const void, entries) P(const int32_t, basis_starts) P(const int32_t, turns) I(column_count) \
  I(channels) I(out_channels) I(group_count)

// The same where pixels lie as they do in the plane: `phases`: x offsets of phase_count planes; `blocks` are (word offset of four
// channels' line, word of four coefficients), for each output and basis (an even number) as `block_starts` has it; `entries`:
// (offset into an output's pairs of sums, word of two weights), `basis_starts`: where their list begins and ends. A line, and a
// pair's sums, are `stretch` words, whole vectors: as many as the longest run, of `most_vectors`, and its taps need, which begin
// at `first_tap`.
#define DOVETAIL_CONV_RUN_COEFFICIENTS(P, I, A, F)                                         \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const int32_t, phases) I(phase_count) I(first_tap) I(stretch) I(most_vectors)          \
  P(const void, blocks) P(const int32_t, block_starts) I(base_count) P(const void, entries) P(const int32_t, basis_starts) \
  I(channels) I(out_channels) I(group_count)

// The same for maps of at most eight rows of `row_lanes` (4 or 8) pixels, which kernels of 3x3 or 1x1 (`side`) read whole: `vectors`
// vectors of each of the phases. `blocks` and `block_starts` as above, with lists as long as a multiple
// of the sums that they go to (conv_map_coefficients.inl); `zero_sums`: [out_channels][base_count]
// numbers to add to their sums, or null; `bases`: of 3x3 [pairs of bases][9] words of two weights, of 1x1 a number for each;
// `turns`: for the columns on the left and on the right the lane that each lane gets, and a mask of those that get one.
#define DOVETAIL_CONV_MAP_COEFFICIENTS(P, I, A, F)                                         \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const int32_t, phases) I(phase_count) I(row_lanes) I(x_row) I(step) I(side) I(vectors) \
  P(const void, blocks) P(const int32_t, block_starts) P(const int32_t, zero_sums) P(const int32_t, bases) I(base_count) P(const int32_t, turns) \
  I(channels) I(out_channels) I(group_count)

// Groups of any size: `weight` is [out_channels][C/groups][taps], whole numbers.
#define DOVETAIL_CONV_GROUPED_CODES(P, I, A, F)                                            \
  DOVETAIL_CODE_PLANES(P, I, A, F) DOVETAIL_RUNS(P, I, A, F) DOVETAIL_ROUNDING(P, I, A, F) \
  P(const int32_t, weight) P(const int32_t, taps) I(tap_count) I(channels) I(out_channels) I(groups)

// As DOVETAIL_GEMM with one batch, over words (r_image lies between two rows of the residual): w is in blocks of 4 vectors of columns, each [inner][columns of the block].
#define DOVETAIL_GEMM_CODES(P, I, A, F)                                                              \
  P(const int32_t, x) P(const int32_t, w) P(void, y) I(rows) I(inner) I(columns) I(x_row) I(y_row)   \
  DOVETAIL_ROUNDING(P, I, A, F)

// As DOVETAIL_LINEAR_CLASSES over codes, in blocks of 4 vectors: weights [inner][4][lanes] of words, `inner` words of a class;
// `inputs`: which code of a row each of its codes is, -1 where there is none. Bias and multiplier lie in the order of `places`.
#define DOVETAIL_LINEAR_CLASSES_CODES(P, I, A, F)                                                    \
  P(const int32_t, x) P(void, y) I(rows) I(x_row) I(y_row) P(const int32_t, inputs) I(inner)         \
  P(const int32_t, w) P(const int32_t, blocks) I(block_count) P(const int32_t, places)               \
  DOVETAIL_ROUNDING(P, I, A, F)

// Codes of float32 images with any strides, and back; `channels` counts single channels.
#define DOVETAIL_QUANTIZE(P, I, A, F)                                                              \
  P(const float, x) P(int32_t, y) I(images) I(channels) I(height) I(width) I(x_image) I(x_channel) \
  I(x_row) I(x_column) I(y_image) I(y_channel) I(y_row) F(inverse) I(zero)
#define DOVETAIL_DEQUANTIZE(P, I, A, F)                                                            \
  P(const int32_t, x) P(float, y) I(images) I(channels) I(height) I(width) I(x_image) I(x_channel) \
  I(x_row) I(y_image) I(y_channel) I(y_row) I(y_column) F(scale) I(zero)

// y = codes of x_ratio * (x - x_zero) + r_ratio * (r - r_zero); `channels` counts words.
#define DOVETAIL_ADD_CODES(P, I, A, F)                                                                    \
  P(const int32_t, x) P(const int32_t, r) P(int32_t, y) I(images) I(channels) I(height) I(width)          \
  I(x_image) I(x_channel) I(x_row) I(r_image) I(r_channel) I(r_row) I(y_image) I(y_channel) I(y_row)      \
  F(x_ratio) I(x_zero) F(r_ratio) I(r_zero) I(zero) I(low) I(high)

// Pooling of codes: maxima (average = 0), averages of clipped windows (1) or of adaptive ones (2). `ratios[n]` leads from
// the sum of n codes to the result, or `ratios[0]` from all with `include_pad`; `channels` counts words, `out_channels`
// single channels.
#define DOVETAIL_POOL_CODES(P, I, A, F)                                                                     \
  P(const int32_t, x) P(void, y) P(const float, ratios) I(images) I(channels) I(out_channels) I(height)     \
  I(width) I(out_height) I(out_width) I(x_image) I(x_channel) I(x_row) I(y_image) I(y_channel) I(y_row)     \
  I(kernel_h) I(kernel_w) I(stride_h) I(stride_w) I(dilation_h) I(dilation_w) I(pad_top) I(pad_left)        \
  I(average) I(include_pad) I(x_zero) I(real) I(zero) I(low) I(high)

// What the machine can do at most (peak.inl). `x`: kPeakSteps x 3 vectors, then as many x 4 numbers; y: 12 vectors a unit.
#define DOVETAIL_PEAK(P, I, A, F) P(const float, x) P(float, y) I(units) I(rounds)
#define DOVETAIL_PEAK_CODES(P, I, A, F) P(const int32_t, x) P(int32_t, y) I(units) I(rounds)

// Each unit reads its `size` floats of x, `rounds` times; y gets the sum of what was read.
#define DOVETAIL_STREAM(P, I, A, F) P(const float, x) P(float, y) I(units) I(size) I(rounds)

// Every kernel: struct name, public name, field list.
#define DOVETAIL_KERNELS(K)                                            \
  K(ConvDenseArgs, conv2d_dense_f32, DOVETAIL_CONV_DENSE)              \
  K(ConvLanesArgs, conv2d_lanes_f32, DOVETAIL_CONV_LANES)              \
  K(ConvDepthwiseArgs, conv2d_depthwise_f32, DOVETAIL_CONV_DEPTHWISE)  \
  K(ConvExpandedArgs, conv2d_expanded_depthwise_f32, DOVETAIL_CONV_EXPANDED) \
  K(ConvWinogradArgs, conv2d_winograd_f32, DOVETAIL_CONV_WINOGRAD)     \
  K(ConvTuckerArgs, conv2d_tucker_f32, DOVETAIL_CONV_TUCKER)           \
  K(ConvSparseArgs, conv2d_sparse_f32, DOVETAIL_CONV_SPARSE)           \
  K(ConvColumnsArgs, conv2d_sparse_columns_f32, DOVETAIL_CONV_COLUMNS) \
  K(ConvBasisArgs, conv2d_kernel_basis_f32, DOVETAIL_CONV_BASIS)       \
  K(GemmArgs, linear_dense_f32, DOVETAIL_GEMM)                         \
  K(LinearSparseArgs, linear_sparse_f32, DOVETAIL_LINEAR_SPARSE)       \
  K(LinearClassesArgs, linear_classes_f32, DOVETAIL_LINEAR_CLASSES)    \
  K(LinearClassesBytesArgs, linear_classes_bytes_f32, DOVETAIL_LINEAR_CLASSES) \
  K(LinearClassesBookArgs, linear_classes_book_f32, DOVETAIL_LINEAR_CLASSES) \
  K(LinearDiagonalsArgs, linear_diagonals_f32, DOVETAIL_LINEAR_DIAGONALS) \
  K(CirculantArgs, linear_circulant_f32, DOVETAIL_CIRCULANT)           \
  K(TakeArgs, take_f32, DOVETAIL_TAKE)                                 \
  K(PointwiseArgs, pointwise_f32, DOVETAIL_POINTWISE)                  \
  K(CopyArgs, copy_f32, DOVETAIL_COPY)                                 \
  K(FillArgs, fill_f32, DOVETAIL_FILL)                                 \
  K(HaloArgs, halo_f32, DOVETAIL_HALO)                                 \
  K(DealArgs, deal_f32, DOVETAIL_DEAL)                                 \
  K(PoolArgs, pool2d_f32, DOVETAIL_POOL)                               \
  K(AdaptivePoolArgs, adaptive_pool2d_f32, DOVETAIL_ADAPTIVE_POOL)     \
  K(MeanArgs, mean_f32, DOVETAIL_MEAN)                                 \
  K(SoftmaxArgs, softmax_f32, DOVETAIL_SOFTMAX)                        \
  K(LayerNormArgs, layer_norm_f32, DOVETAIL_LAYER_NORM)                \
  K(ConvDenseCodesArgs, conv2d_dense_int8, DOVETAIL_CONV_DENSE_CODES)  \
  K(ConvLanesCodesArgs, conv2d_lanes_int8, DOVETAIL_CONV_LANES_CODES)  \
  K(ConvSparseCodesArgs, conv2d_sparse_int8, DOVETAIL_CONV_SPARSE_CODES) \
  K(ConvColumnsCodesArgs, conv2d_sparse_columns_int8, DOVETAIL_CONV_COLUMNS_CODES) \
  K(ConvBasisCodesArgs, conv2d_kernel_basis_int8, DOVETAIL_CONV_BASIS_CODES) \
  K(ConvCoefficientsArgs, conv2d_coefficients_int8, DOVETAIL_CONV_COEFFICIENTS) \
  K(ConvSharedCoefficientsArgs, conv2d_shared_coefficients_int8, DOVETAIL_CONV_COEFFICIENTS) \
  K(ConvBlockCoefficientsArgs, conv2d_block_coefficients_int8, DOVETAIL_CONV_COEFFICIENTS) \
  K(ConvRunCoefficientsArgs, conv2d_run_coefficients_int8, DOVETAIL_CONV_RUN_COEFFICIENTS) \
  K(ConvMapCoefficientsArgs, conv2d_map_coefficients_int8, DOVETAIL_CONV_MAP_COEFFICIENTS) \
  K(ConvGroupedCodesArgs, conv2d_grouped_int8, DOVETAIL_CONV_GROUPED_CODES) \
  K(ConvChainCodesArgs, conv2d_chain_int8, DOVETAIL_CONV_TUCKER)       \
  K(GemmCodesArgs, linear_dense_int8, DOVETAIL_GEMM_CODES)             \
  K(LinearClassesCodesArgs, linear_classes_int8, DOVETAIL_LINEAR_CLASSES_CODES) \
  K(QuantizeArgs, quantize_int8, DOVETAIL_QUANTIZE)                    \
  K(DequantizeArgs, dequantize_int8, DOVETAIL_DEQUANTIZE)              \
  K(AddCodesArgs, add_int8, DOVETAIL_ADD_CODES)                        \
  K(PoolCodesArgs, pool2d_int8, DOVETAIL_POOL_CODES)                   \
  K(PeakArgs, peak_f32, DOVETAIL_PEAK)                                 \
  K(PeakCodesArgs, peak_int8, DOVETAIL_PEAK_CODES)                     \
  K(StreamArgs, stream_f32, DOVETAIL_STREAM)

#define DOVETAIL_MEMBER_P(type, name) type* name = nullptr;
#define DOVETAIL_MEMBER_I(name) int64_t name = 0;
#define DOVETAIL_MEMBER_A(name, count) int64_t name[count] = {};
#define DOVETAIL_MEMBER_F(name) float name = 0;
#define DOVETAIL_STRUCT(Args, kernel, FIELDS) \
  struct Args {                               \
    FIELDS(DOVETAIL_MEMBER_P, DOVETAIL_MEMBER_I, DOVETAIL_MEMBER_A, DOVETAIL_MEMBER_F) \
  };
DOVETAIL_KERNELS(DOVETAIL_STRUCT)
#undef DOVETAIL_STRUCT

// A weight (or coefficient) and the place that it reads.
struct Entry {
  int32_t offset;
  float weight;
};

}  // namespace dovetail
