// The contract between the core and its SIMD code: one table of plain functions per instruction-set
// level.
//
// Rules. Raw pointers, sizes and strides only; no allocation, exceptions, threads or containers.
// Pointers into mapped files may have any alignment and are never read past the end stated here;
// activations, outputs and scratch are aligned as floats are (64 bytes where speed matters). The
// caller checks every precondition once; kernels do not. Threads split output rows: a function that
// takes [row_begin, row_end) gives the same bits for a row however the range is cut.
//
// The layout of weights is that of docs/format.md for every level: codes are a little-endian bit
// stream a row, so a level never needs a second copy of the weights. A null entry of a level's own
// table falls back to the next lower level (dispatch.cpp): amx -> avx512 -> avx2 -> baseline ->
// reference, avx2_vnni -> avx2, neon_i8mm -> neon -> baseline.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_layout.h"

namespace jang::kernels {

enum class Level : uint8_t {
  kReference,
  kBaseline,
  kAvx2,
  kAvx2Vnni,
  kAvx512,
  kAmx,
  kNeon,
  kNeonI8mm
};
inline constexpr int kLevels = 8;

enum class FloatType : uint8_t { kF32, kF16, kBF16 };

/// Packed weights of one matrix: w(r, c) = s(r, c/group) * q(r, c) + z(r, c/group).
/// columns is a multiple of group, group one of 32, 64, 128, bits one of 2, 3, 4, 5, 6, 8.
struct AffineMatrix {
  const uint8_t* codes;   // [rows][columns*bits/8]
  const uint8_t* scales;  // [rows][columns/group] of `metadata`
  const uint8_t* biases;
  int64_t rows;
  int64_t columns;
  int bits;
  int group;
  FloatType metadata;
};

/// Unquantized weights, [rows][columns] contiguous, any alignment.
struct DenseMatrix {
  const uint8_t* data;
  int64_t rows;
  int64_t columns;
  FloatType type;
};

/// How the int8 codes of activations are ordered, so that a level's unpacking of weights need not
/// restore the order of columns. Within each kActivationBlock columns of a row:
///   kNatural     position i holds column i
///   kNibbles     position 64*h + 32*p + i holds column 64*h + 2*i + p, p in {0, 1}, i in [0, 32)
///   kCrumbs      position 128*h + 32*p + i holds column 128*h + 4*i + p, p in [0, 4), i in [0, 32)
///   kWideNibbles position 128*h + 64*p + i holds column 128*h + 2*i + p, p in {0, 1}, i in [0, 64)
///   kWideCrumbs  position 64*p + i holds column 4*i + p, p in [0, 4), i in [0, 64)
enum class ActivationOrder : uint8_t { kNatural, kNibbles, kCrumbs, kWideNibbles, kWideCrumbs };
inline constexpr int kActivationBlock = 256;
/// Groups a row of scales and sums is padded to.
inline constexpr int kGroupBlock = 16;

/// Rows of activations for the integer kernels: x(t, c) ~ scale(t, c/group) * code(t, c). Padding
/// holds zeros, so that kernels work on whole blocks.
struct Int8Activations {
  int8_t* codes;         // [tokens][code_stride], each in [-127, 127]
  float* scales;         // [tokens][group_stride]
  float* sums;           // [tokens][group_stride]: of the group's floats before rounding
  float* residuals;      // [tokens][group_stride]: what rounding took off the sum
  int64_t code_stride;   // at least columns rounded up to kActivationBlock
  int64_t group_stride;  // columns/group rounded up to kGroupBlock
};

/// Running state of the online softmax of some queries: start with max = -inf, sum = 0, acc = 0.
struct SoftmaxState {
  float* max;  // [queries]
  float* sum;  // [queries]
  float* acc;  // [queries][kv_padded(value_dim)]; what lies behind value_dim means nothing
};

/// Queries of one kv head: the heads that share it times the positions of the call, as rows of one
/// matrix.
struct AttentionTask {
  const float* queries;  // [n_queries] rows of kv_padded(key_dim) floats, query_stride apart, zeros
                         // behind key_dim; unscaled
  int64_t query_stride;
  const int64_t* positions;  // [n_queries], absolute
  int n_queries;
  KvView kv;
  int64_t key_begin, key_end;  // this task's slice of the keys, at most kv.length; key_begin is a
                               // multiple of kKvBlock
  int64_t window;              // > 0: only keys at a distance below it; 0: no window
  bool causal = true;          // only keys <= the query's position
  float scale;                 // on q.k
  float softcap;               // > 0: softcap * tanh(score / softcap); 0: none
  SoftmaxState state;          // updated
  float* scratch;              // attention_scratch() floats
};
/// Floats of scratch for n_queries over rows of at most `padded` channels.
static constexpr int64_t attention_scratch(int64_t n_queries, int64_t padded) {
  return (n_queries + 15) / 16 * 16 * (kKvBlock + 1) + kKvBlock * padded;
}

/// Arguments of the quantizers: whole groups of one row after another.
struct QuantTask {
  const float* values;   // [groups][group], finite
  const float* weights;  // [group] columns' importance for group i at weights + (i % weight_groups)
                         // * group; or null
  int64_t weight_groups;
  int64_t groups;
  int group;
  int bits;
  FloatType metadata;
  float* scales;   // [groups] out: already rounded to `metadata`, as floats
  float* biases;   // [groups]
  uint8_t* codes;  // [groups][group] out: one code a byte
};

/// Outputs of one product call, rows and columns each, at most: every level's register tile divides
/// it.
inline constexpr int64_t kProductTile = 192;

/// C(i, j) += alpha * sum over k of weight(k) * A(k, i) * B(k, j), for i in [0, rows), j in [0,
/// columns), k in [0, depth).
template <typename T>
struct ProductTask {
  const T* a;  // A(k, i) at a[k * a_depth_stride + i * a_row_stride]
  int64_t a_depth_stride;
  int64_t a_row_stride;
  const T* b;  // B(k, j) at b[k * b_stride + j]
  int64_t b_stride;
  const T* weights;  // [depth], or null: 1
  T* c;              // C(i, j) at c[i * c_stride + j]
  int64_t c_stride;
  int64_t rows, columns;  // 1 to kProductTile
  int64_t depth;
  T alpha;
  T* scratch;  // product_scratch<T>() elements, 64-byte aligned
};
/// Terms that are summed in registers before they are added to C; a slice of B stays in L1.
inline constexpr int64_t kProductDepth = 128;
template <typename T>
inline constexpr int64_t kProductScratch = 2 * (kProductDepth + 4) * kProductTile;

/// Some columns of a matrix that are rounded one after another, each handing its error on to those
/// behind it. Rows of the matrix are contiguous: arrays are [columns][stride], and rows is a
/// multiple of kFeedbackRows, at most stride.
inline constexpr int64_t kFeedbackRows = 16;
struct FeedbackTask {
  const float* targets;   // what each value is to be, before errors of this call's columns
  const float* base;      // errors are measured from here
  const float* feedback;  // f(i, k) at feedback[i * feedback_stride + k], i < k < columns
  int64_t feedback_stride;
  const float* scales;  // [groups][stride]
  const float* biases;
  const int32_t* groups;  // [columns]: row of scales and biases
  const float* costs;     // [columns]
  float* errors;          // out
  uint8_t* codes;         // out
  float* losses;          // [stride], added to
  float* clipped;         // [groups][stride], added to; or null
  int64_t stride;
  int64_t rows;
  int64_t columns;
  int bits;
};

/// Channels that are convolved each with its own taps over time: out(t, c) = act(bias(c) + sum over
/// j of weight(j, c) * input(t - taps + 1 + j, c)), the last tap on the current token. Inputs
/// before the first token are `history`.
struct ConvTask {
  const float* x;  // [tokens] rows, x_stride apart
  int64_t x_stride;
  const float* history;  // [taps - 1] rows, history_stride apart, the oldest first
  int64_t history_stride;
  const float* weights;  // [taps] rows, weight_stride apart
  int64_t weight_stride;
  const float* bias;  // [channels], or null
  int64_t first = 0;  // token to begin with; those before it are only inputs
  int64_t tokens, channels;
  int taps;
  bool silu;   // act: x / (1 + e^-x); else none
  float* out;  // [tokens] rows, out_stride apart; not x
  int64_t out_stride;
  // Gates, [tokens] rows of the stride of x, or null: the inputs are x times input_gate, those of
  // the history such products already, and the outputs are multiplied by output_gate.
  const float* input_gate = nullptr;
  const float* output_gate = nullptr;
};

/// Tokens of a gated delta rule that are taken together; a state is known where a chunk begins.
inline constexpr int kDeltaChunk = 32;
/// Some tokens of one head and chunk. With S0 the state before the chunk's first token and G(t) the
/// sum of log_decay up to t, both from the chunk's beginning on:
///   u(t) = beta(t) * (v(t) - e^G(t) S0^T k(t) - sum over i < t of e^(G(t) - G(i)) (k(i).k(t))
///   u(i)) out(t) = e^G(t) S0^T q(t) + sum over i <= t of e^(G(t) - G(i)) (k(i).q(t)) u(i)
/// which is S <- e^g S; u = beta (v - S^T k); S <- S + k u^T; out = S^T q, token by token. Rows of
/// q, k and v are those of this call's tokens; `past` are the chunk's tokens of earlier calls.
struct DeltaTask {
  const float* q;
  const float* k;
  int64_t qk_stride;
  const float* v;
  int64_t v_stride;
  const float* beta;       // at beta[t * gate_stride]
  const float* log_decay;  // at most 0
  int64_t gate_stride;
  const float* past_k;  // [past] rows
  int64_t past_k_stride;
  const float* past_u;
  int64_t past_u_stride;
  const float* past_decay;
  int64_t past_gate_stride;
  const float* state;  // S0, [key_dim][value_dim]
  float* u;            // out, [tokens] rows
  int64_t u_stride;
  float* out;  // [tokens] rows
  int64_t out_stride;
  float* next_state;  // out, S behind the chunk's last token, where past + tokens reach
                      // kDeltaChunk; may be `state`
  int past, tokens;   // at least one token; together at most kDeltaChunk
  int key_dim, value_dim;
  float* scratch;  // delta_scratch() floats, 64-byte aligned
};
static constexpr int64_t delta_scratch(int64_t key_dim, int64_t value_dim) {
  return kProductScratch<float> + kDeltaChunk * (2 * key_dim + 3 * value_dim + 2 * kDeltaChunk);
}

/// Some tokens of one chunk for heads that share keys and queries, a state space model whose states
/// decay as a whole. With S0, G as in DeltaTask, for each head:
///   u(t) = step(t) * x(t)
///   out(t) = e^G(t) S0^T q(t) + sum over i <= t of e^(G(t) - G(i)) (k(i).q(t)) u(i) + skip * x(t)
/// which is S <- e^g S + k u^T; out = S^T q + skip * x, token by token. Head h has the columns from
/// h * value_dim on in rows of x, u and out, and the h-th state.
struct SsdTask {
  const float* q;
  const float* k;
  int64_t qk_stride;
  const float* x;
  int64_t x_stride;
  const float* step;       // of head h at step[t * gate_stride + h]
  const float* log_decay;  // at most 0
  int64_t gate_stride;
  const float* skip;    // [heads]
  const float* past_k;  // [past] rows
  int64_t past_k_stride;
  const float* past_u;
  int64_t past_u_stride;
  const float* past_decay;
  int64_t past_gate_stride;
  const float* state;  // S0, [heads][key_dim][value_dim]
  float* u;            // out, [tokens] rows
  int64_t u_stride;
  float* out;  // [tokens] rows
  int64_t out_stride;
  float* next_state;  // out, S behind the chunk's last token, where past + tokens reach
                      // kDeltaChunk; may be `state`
  int past, tokens;   // at least one token; together at most kDeltaChunk
  int heads, key_dim, value_dim;
  float* scratch;  // ssd_scratch() floats, 64-byte aligned
};
static constexpr int64_t ssd_scratch(int64_t key_dim, int64_t value_dim) {
  return kProductScratch<float> + kDeltaChunk * (key_dim + 2 * value_dim + 2 * kDeltaChunk);
}

/// Channels that each keep `size` numbers of their past, every one with a decay of its own:
///   S(n, c) <- e^(step(t, c) * rate(n, c)) * S(n, c) + step(t, c) * x(t, c) * in(t, n)
///   out(t, c) = skip(c) * x(t, c) + sum over n of S(n, c) * read(t, n)
/// token by token. Without `out` only the states move, and read and skip are not looked at.
struct ScanTask {
  const float* x;  // [tokens] rows, as all that follows but for rate, skip and state
  int64_t x_stride;
  const float* step;  // at least 0
  int64_t step_stride;
  const float* in;
  int64_t in_stride;
  const float* read;
  int64_t read_stride;
  const float* rate;  // [size] rows, at most 0
  int64_t rate_stride;
  const float* skip;  // [channels]
  float* state;       // [size] rows, updated
  int64_t state_stride;
  float* out;  // or null
  int64_t out_stride;
  int64_t tokens, channels, size;
};

/// A null entry of a level's own table means "as the next lower level"; tables that table_for()
/// returns have none.
struct KernelTable {
  Level level = Level::kReference;

  // --- linear, f32 activations ("exact")

  // y[t][r] = sum_c x[t][c] * w(r, c) for r in [row_begin, row_end), t in [0, tokens); y is indexed
  // by the absolute row. x: tokens rows of `columns` floats, x_stride apart; y rows y_stride apart.
  // The bits of y[t][r] depend neither on the range of rows nor on `tokens`.
  void (*affine_matmul)(const AffineMatrix& w, const float* x, int64_t x_stride, int64_t tokens,
                        float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) = nullptr;
  void (*dense_matmul)(const DenseMatrix& w, const float* x, int64_t x_stride, int64_t tokens,
                       float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) = nullptr;

  // --- linear, int8 activations ("fast")

  // The order in which affine_matmul_int8 of this level wants the codes for weights of `bits`.
  ActivationOrder (*activation_order)(int bits) = nullptr;
  // Rounds tokens rows of `columns` floats, x_stride apart, per group: scale = max |x| / 127, code
  // = x * (127 / max |x|) to nearest even. A group whose max is below 2^-100 has scale 0 and codes
  // 0; one with a NaN or an infinity has scale NaN. residual = sum - scale * (sum of codes). Codes
  // and scales are the same at every level.
  void (*quantize_activations)(const float* x, int64_t x_stride, int64_t tokens, int64_t columns,
                               int group, ActivationOrder order,
                               const Int8Activations& out) = nullptr;
  // y[t][r] = sum_g s(r, g) * (scale(t, g) * I(r, t, g) + mid * residual(t, g)) + z(r, g) * sum(t,
  // g), with mid = (2^bits - 1) / 2 and the integer dot products I exact; x was made with w.group
  // and activation_order(w.bits). y as in affine_matmul. Only s * (q - mid), the part of a weight
  // that differs within its group, meets rounded activations.
  // The bits of y[t][r] do not depend on the range of rows or on the other tokens, but a level may
  // add in one order for few tokens and in another for many.
  void (*affine_matmul_int8)(const AffineMatrix& w, const Int8Activations& x, int64_t tokens,
                             float* y, int64_t y_stride, int64_t row_begin,
                             int64_t row_end) = nullptr;
  // How many rows a call for many tokens should bring, a multiple of 64: what it does once,
  // whatever the rows, is small then. More are as good. Only speed depends on it.
  int64_t (*row_block)() = nullptr;

  // --- rows and elements

  // Row `row` of a matrix as floats: embeddings, dequantization. Affine: s*q + z, rounded to f32
  // once or twice.
  void (*affine_row)(const AffineMatrix& w, int64_t row, float* out) = nullptr;
  void (*dense_row)(const DenseMatrix& w, int64_t row, float* out) = nullptr;
  // n floats from f16/bf16/f32 bytes, exactly.
  void (*to_float)(const uint8_t* in, FloatType type, int64_t n, float* out) = nullptr;
  // n floats rounded to nearest even into f16/bf16/f32 bytes; a NaN stays a NaN.
  void (*from_float)(const float* in, FloatType type, int64_t n, uint8_t* out) = nullptr;

  // --- layers

  // out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * (weight + weight_offset); in place allowed. weight
  // null: 1.
  void (*rms_norm)(const float* x, int64_t x_stride, const float* weight, float weight_offset,
                   float eps, int64_t tokens, int64_t n, float* out, int64_t out_stride) = nullptr;
  // x += y, then out = rms_norm(x), in one pass over a token less: the same bits as the two calls.
  // x and y: tokens rows of n floats, contiguous, as is out, which is none of them.
  void (*add_rms_norm)(float* x, const float* y, const float* weight, float weight_offset,
                       float eps, int64_t tokens, int64_t n, float* out) = nullptr;
  // out[t] = (x[t] - mean) / sqrt(variance + eps) * weight + bias, rows contiguous; in place
  // allowed; bias may be null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps,
                     int64_t tokens, int64_t n, float* out) = nullptr;
  // x += y, n floats.
  void (*add)(float* x, const float* y, int64_t n) = nullptr;
  // x *= factor, n floats.
  void (*scale)(float* x, float factor, int64_t n) = nullptr;
  // x = cap * tanh(x / cap), n floats; cap > 0.
  void (*soft_cap)(float* x, float cap, int64_t n) = nullptr;
  // x = max(-limit, min(limit, x)), n floats; limit >= 0; a NaN stays.
  void (*clamp)(float* x, float limit, int64_t n) = nullptr;
  // out = silu(gate) * up, n floats; in place on gate or up allowed.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out) = nullptr;
  // out = gelu(gate) * up, n floats; in place on gate or up allowed; up null: 1. tanh_form: the
  // approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), else x/2 (1 + erf(x / sqrt 2)).
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, bool tanh_form,
                   float* out) = nullptr;
  // out = max(x, 0)^2, n floats; in place allowed; a NaN stays.
  void (*relu_squared)(const float* x, int64_t n, float* out) = nullptr;
  // With g = min(gate, limit) and u = max(-limit, min(limit, up)): out = g / (1 + e^(-slope g)) *
  // (u + 1), n floats; in place on gate or up allowed; limit and slope above 0; a NaN stays.
  void (*clamped_swiglu)(const float* gate, const float* up, float limit, float slope, int64_t n,
                         float* out) = nullptr;
  // Rotates the first 2*half channels of each of `heads` vectors, head_stride apart, in place.
  // interleaved false: pairs (i, i+half); true: (2i, 2i+1). cos, sin: [half].
  void (*rope)(float* x, int64_t head_stride, int heads, int half, bool interleaved,
               const float* cos, const float* sin) = nullptr;
  // rms_norm of each head's `dim` channels, then rope: the same bits as the two calls.
  void (*norm_rope)(float* x, int64_t head_stride, int heads, int dim, const float* weight,
                    float weight_offset, float eps, int half, bool interleaved, const float* cos,
                    const float* sin) = nullptr;

  // out = x / (1 + e^-gate), n floats; in place on x or gate allowed.
  void (*sigmoid_mul)(const float* x, const float* gate, int64_t n, float* out) = nullptr;

  // --- recurrence

  // The bits of out(t, c) depend on its own inputs alone, not on the call's tokens or channels.
  void (*causal_conv)(const ConvTask& task) = nullptr;
  // beta = 1 / (1 + e^-b), log_decay = rate * ln(1 + e^(a + shift)), n floats; in place allowed.
  void (*delta_gates)(const float* b, const float* a, const float* rate, const float* shift,
                      int64_t n, float* beta, float* log_decay) = nullptr;
  // The bits of u, out and next_state do not depend on how a chunk's tokens are cut into calls.
  void (*delta_chunk)(const DeltaTask& task) = nullptr;
  // step = ln(1 + e^(x + shift)), limited to [low, high]; log_decay = rate * step; n floats, in
  // place allowed. shift null: 0; rate null: log_decay is not written.
  void (*step_gates)(const float* x, const float* shift, const float* rate, float low, float high,
                     int64_t n, float* step, float* log_decay) = nullptr;
  // The bits of u, out and next_state depend neither on how a chunk's tokens are cut into calls nor
  // on the other heads.
  void (*ssd_chunk)(const SsdTask& task) = nullptr;
  // The bits of a channel depend on its own inputs alone, and not on how tokens are cut into calls.
  void (*selective_scan)(const ScanTask& task) = nullptr;

  // --- attention

  // Rounds `count` rows of dim floats, row_stride apart, into positions [position, position +
  // count) of a history. f16 clamps to its largest finite value; a row (q8) or group (q4) with a
  // NaN or an infinity becomes NaN. The same bytes at every level.
  void (*kv_store)(const float* rows, int64_t row_stride, int64_t count, int dim, KvType type,
                   uint8_t* const* blocks, int64_t position) = nullptr;
  // The rows back as floats: exactly, but for one or two roundings of q8 and q4.
  void (*kv_load)(const uint8_t* const* blocks, int64_t position, int64_t count, int dim,
                  KvType type, float* out, int64_t out_stride) = nullptr;
  // Rotates each of `rows` vectors of n floats, stride apart, in place by the orthonormal
  // Walsh-Hadamard matrix of the largest power of two that divides n, block by block. Its own
  // inverse.
  void (*hadamard)(float* x, int64_t stride, int64_t rows, int n) = nullptr;
  // Updates task.state with the task's slice of keys. A query that sees no key of the slice keeps
  // its state; the others depend neither on each other nor on n_queries.
  void (*attend)(const AttentionTask& task) = nullptr;
  // Appends `next`, made from later keys, to `state`: n_queries rows, value_dim padded. A query
  // without keys in `next` keeps its state, one without keys in `state` takes over that of `next`.
  void (*merge_attention)(const SoftmaxState& state, const SoftmaxState& next, int n_queries,
                          int padded) = nullptr;

  // --- vocabulary

  // In place softmax of n floats, in f32 with the maximum removed.
  void (*softmax)(float* x, int64_t n) = nullptr;
  // Index of the largest value, the first among equals; NaN never wins. n >= 1.
  int64_t (*argmax)(const float* x, int64_t n) = nullptr;
  // Indices of the k largest values in descending order, equal ones by index; NaN counts as -inf.
  // 1 <= k <= n.
  void (*top_k)(const float* x, int64_t n, int64_t k, int64_t* indices) = nullptr;

  // --- quantization: the same bits at every level

  void (*quantize_rtn)(const QuantTask& task) = nullptr;
  void (*quantize_mse)(const QuantTask& task) = nullptr;
  // codes [n] one a byte -> n*bits/8 packed bytes, and back; n a multiple of 32.
  void (*pack)(const uint8_t* codes, int64_t n, int bits, uint8_t* out) = nullptr;
  void (*unpack)(const uint8_t* packed, int64_t n, int bits, uint8_t* codes) = nullptr;

  // --- solving

  // Sums run over k in ascending order within runs of kProductDepth terms, and the runs are added
  // in ascending order: an element's bits do not depend on rows, columns, or where it stands in a
  // tile. The reference sums in double.
  void (*product_f32)(const ProductTask<float>& task) = nullptr;
  void (*product_f64)(const ProductTask<double>& task) = nullptr;
  // For k = 0, 1, ..: t = targets[k] - sum over i < k of f(i, k) * errors[i], ascending; code = the
  // nearest of t on the grid s*q + b of the column's group, half to even, clamped; value = s*code
  // + b (two roundings); errors[k] = value - base[k]; losses += costs[k] * (value - t)^2; clipped
  // += 1 where t is more than half a step outside the grid. A row's bits do not depend on the
  // others.
  void (*round_with_feedback)(const FeedbackTask& task) = nullptr;

  // --- measuring

  // The same bits at every level: sum modulo 2^64 of the little-endian 64-bit words of n bytes at
  // any address, the last one filled up with zeros. Reads as fast as a core can: the ceiling for
  // all that streams weights.
  uint64_t (*sum_words)(const uint8_t* bytes, int64_t n) = nullptr;
  // Multiply-adds on float registers alone, as fast as a core can: the ceiling for all that
  // multiplies in f32. Runs `rounds` (>= 1) of them, writes what came out, and returns how many
  // multiply-adds that were, a multiple of rounds. Values differ by level.
  int64_t (*multiply_adds)(int64_t rounds, float* out) = nullptr;
};

/// "avx512"; the spelling of JANG_ISA.
const char* level_name(Level level) noexcept;
bool level_compiled(Level level) noexcept;
bool level_supported(Level level) noexcept;  // compiled, and this CPU and OS can run it

/// The complete table of a level (fallbacks filled in); null if not compiled or not supported.
const KernelTable* table_for(Level level) noexcept;

/// The level of the JANG_ISA value `name` (may be null or empty: the best supported one). Null and
/// an error text in `message` if it is unknown, absent or unsupported.
const KernelTable* choose_table(const char* name, const char** message) noexcept;

/// The table of this process: choose_table(getenv("JANG_ISA")), fixed at the first call. The core
/// reaches it through quant/active_kernels.h, which turns a null into an Error.
const KernelTable* active_table(const char** message) noexcept;

}  // namespace jang::kernels
