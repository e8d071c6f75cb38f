// AVX2, FMA and F16C: the generic kernels on 32-byte registers, the integer linear kernels by hand.
#define JANG_VEC_BYTES 32
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/all.inl"
//
#include "kernels/x86_avx2/linear_int8.inl"

constexpr KernelTable own_table() {
  KernelTable table = kernel_table(Level::kAvx2);
  table.activation_order = int8_activation_order;
  table.affine_matmul_int8 = int8_affine_matmul;
  return table;
}

constexpr KernelTable kTable = own_table();

}  // namespace

const KernelTable* x86_avx2_table() noexcept { return &kTable; }

}  // namespace jang::kernels
