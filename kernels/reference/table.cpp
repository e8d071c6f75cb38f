// The definition of correct for every entry: plain scalar code, sums in double. Only used when it
// is asked for by name, and by the tests.
#include <cmath>

#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/reference/quantize.inl"
//
#include "kernels/reference/convert.inl"
//
#include "kernels/reference/layers.inl"
#include "kernels/reference/linear.inl"
#include "kernels/reference/linear_int8.inl"
//
#include "kernels/reference/kv_rows.inl"
//
#include "kernels/reference/attention.inl"
#include "kernels/reference/read.inl"
#include "kernels/reference/recurrence.inl"
#include "kernels/reference/solving.inl"
#include "kernels/reference/state_space.inl"

constexpr KernelTable kTable = {.level = Level::kReference,
                                .affine_matmul = affine_matmul,
                                .dense_matmul = dense_matmul,
                                .activation_order = activation_order,
                                .quantize_activations = quantize_activations,
                                .affine_matmul_int8 = affine_matmul_int8,
                                .row_block = row_block,
                                .affine_row = affine_row,
                                .dense_row = dense_row,
                                .to_float = to_float,
                                .from_float = from_float,
                                .rms_norm = rms_norm,
                                .add_rms_norm = add_rms_norm,
                                .layer_norm = layer_norm,
                                .add = add,
                                .scale = scale,
                                .soft_cap = soft_cap,
                                .clamp = clamp,
                                .silu_mul = silu_mul,
                                .gelu_mul = gelu_mul,
                                .relu_squared = relu_squared,
                                .clamped_swiglu = clamped_swiglu,
                                .rope = rope,
                                .norm_rope = norm_rope,
                                .sigmoid_mul = sigmoid_mul,
                                .causal_conv = causal_conv,
                                .delta_gates = delta_gates,
                                .delta_chunk = delta_chunk,
                                .step_gates = step_gates,
                                .ssd_chunk = ssd_chunk,
                                .selective_scan = selective_scan,
                                .kv_store = kv_store,
                                .kv_load = kv_load,
                                .hadamard = hadamard,
                                .attend = attend,
                                .merge_attention = merge_attention,
                                .softmax = softmax,
                                .argmax = argmax,
                                .top_k = top_k,
                                .quantize_rtn = quantize_rtn,
                                .quantize_mse = quantize_mse,
                                .pack = pack,
                                .unpack = unpack,
                                .product_f32 = product_f32,
                                .product_f64 = product_f64,
                                .round_with_feedback = round_with_feedback,
                                .sum_words = sum_words,
                                .multiply_adds = multiply_adds};

}  // namespace

const KernelTable* reference_table() noexcept { return &kTable; }

}  // namespace jang::kernels
