// AVX2, FMA and F16C: the generic kernels on 32-byte registers.
#define JANG_VEC_BYTES 32
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/all.inl"

constexpr KernelTable kTable = kernel_table(Level::kAvx2);

}  // namespace

const KernelTable* x86_avx2_table() noexcept { return &kTable; }

}  // namespace jang::kernels
