// The level that every machine of this build runs: the generic kernels on 16-byte registers,
// compiled with the wheel's own flags (SSE4.2 on x86-64, ASIMD on Arm).
#define JANG_VEC_BYTES 16
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/all.inl"

constexpr KernelTable kTable = kernel_table(Level::kBaseline);

}  // namespace

const KernelTable* baseline_table() noexcept { return &kTable; }

}  // namespace jang::kernels
