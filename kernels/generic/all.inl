// Every generic kernel and the table of them, for the unnamed namespace of a level's table.cpp. A
// level replaces entries of the table that it has a faster kernel for.
#include "kernels/generic/vec.inl"
//
#include "kernels/generic/vec_exp.inl"
#include "kernels/generic/vec_sum.inl"
//
#include "kernels/generic/convert.inl"
//
#include "kernels/generic/affine_format.inl"
#include "kernels/generic/affine_weights.inl"
#include "kernels/generic/linear.inl"
//
#include "kernels/generic/kv_rows.inl"
//
#include "kernels/generic/activations.inl"
#include "kernels/generic/attention.inl"
#include "kernels/generic/linear_affine.inl"
#include "kernels/generic/linear_dense.inl"
#include "kernels/generic/norm.inl"
#include "kernels/generic/pointwise.inl"
#include "kernels/generic/quantize.inl"
#include "kernels/generic/read.inl"
#include "kernels/generic/rope.inl"
#include "kernels/generic/vocabulary.inl"
//
#include "kernels/generic/kv_store.inl"
#include "kernels/generic/linear_int8.inl"
//
#include "kernels/generic/product.inl"
#include "kernels/generic/recurrence.inl"
//
#include "kernels/generic/chunk_parts.inl"
//
#include "kernels/generic/delta_chunk.inl"
#include "kernels/generic/selective_scan.inl"
#include "kernels/generic/ssd_chunk.inl"
//
#include "kernels/generic/round_with_feedback.inl"

constexpr KernelTable kernel_table(Level level) {
  return {.level = level,
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
}
