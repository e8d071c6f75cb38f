// AVX-512 (F, BW, VL, DQ, VNNI, VBMI): the generic kernels on 64-byte registers.
#define JANG_VEC_BYTES 64
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/all.inl"

constexpr KernelTable kTable = kernel_table(Level::kAvx512);

}  // namespace

const KernelTable* x86_avx512_table() noexcept { return &kTable; }

}  // namespace jang::kernels
