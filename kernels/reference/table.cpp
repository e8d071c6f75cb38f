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
#include "kernels/reference/attention.inl"
#include "kernels/reference/layers.inl"
#include "kernels/reference/linear.inl"
#include "kernels/reference/linear_int8.inl"

constexpr KernelTable kTable = {.level = Level::kReference,
                                .affine_matmul = affine_matmul,
                                .dense_matmul = dense_matmul,
                                .activation_order = activation_order,
                                .quantize_activations = quantize_activations,
                                .affine_matmul_int8 = affine_matmul_int8,
                                .affine_row = affine_row,
                                .dense_row = dense_row,
                                .to_float = to_float,
                                .from_float = from_float,
                                .rms_norm = rms_norm,
                                .add = add,
                                .silu_mul = silu_mul,
                                .rope = rope,
                                .attend = attend,
                                .softmax = softmax,
                                .argmax = argmax,
                                .quantize_rtn = quantize_rtn,
                                .quantize_mse = quantize_mse,
                                .pack = pack,
                                .unpack = unpack};

}  // namespace

const KernelTable* reference_table() noexcept { return &kTable; }

}  // namespace jang::kernels
