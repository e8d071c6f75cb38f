// AVX2 with AVX-VNNI, the dot product of bytes on 32-byte registers: the integer linear kernels of
// avx2 with it. Everything else is as in avx2.
#define JANG_VEC_BYTES 32
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/activation_position.inl"
#include "kernels/generic/affine_format.inl"
#include "kernels/generic/vec.inl"
//
#include "kernels/x86_avx2/linear_int8.inl"

constexpr KernelTable kTable = {.level = Level::kAvx2Vnni,
                                .activation_order = int8_activation_order,
                                .affine_matmul_int8 = int8_affine_matmul};

}  // namespace

const KernelTable* x86_avx2_vnni_table() noexcept { return &kTable; }

}  // namespace jang::kernels
