// AVX-512 (F, BW, VL, DQ, VNNI, VBMI, VBMI2): the generic kernels on 64-byte registers, and integer
// linear layers of its own.
#define JANG_VEC_BYTES 64
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/all.inl"
//
#include "kernels/x86_avx512/transpose.inl"
#include "kernels/x86_avx512/unpack.inl"
//
#include "kernels/x86_avx512/decode_int8.inl"
#include "kernels/x86_avx512/turned_rows.inl"
//
#include "kernels/x86_avx512/few_int8.inl"
#include "kernels/x86_avx512/tiles_int8.inl"
//
#include "kernels/x86_avx512/linear_int8.inl"

constexpr KernelTable own_table() {
  KernelTable table = kernel_table(Level::kAvx512);
  table.activation_order = vnni_activation_order;
  table.affine_matmul_int8 = vnni_matmul_int8;
  return table;
}

constexpr KernelTable kTable = own_table();

}  // namespace

const KernelTable* x86_avx512_table() noexcept { return &kTable; }

}  // namespace jang::kernels
