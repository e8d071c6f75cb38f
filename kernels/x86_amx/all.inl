// The kernels of this level and their table, written against the vocabulary of tile operations that
// was included before.
#include "kernels/generic/activation_position.inl"
#include "kernels/generic/affine_format.inl"
#include "kernels/generic/vec.inl"
//
#include "kernels/x86_avx512/transpose.inl"
#include "kernels/x86_avx512/unpack.inl"
//
#include "kernels/x86_amx/operands.inl"
//
#include "kernels/x86_amx/linear_bf16.inl"
#include "kernels/x86_amx/linear_int8.inl"

// 64 rows are 4 products of 70 cycles for one column operand of 60: a sixth of the time goes into
// the operand, with 256 rows a twentieth (computed).
int64_t row_block() { return 256; }

constexpr KernelTable kTable = {.level = Level::kAmx,
                                .dense_matmul = amx_dense_matmul,
                                .affine_matmul_int8 = amx_matmul_int8,
                                .row_block = row_block};
