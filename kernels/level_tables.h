// The one symbol that each instruction-set folder shows to the outside: its own table, in which a
// null entry means "as the next lower level". Called by dispatch.cpp, and by x86_amx, whose entries
// leave few tokens to those of avx512.
#pragma once

#include "kernels/kernel_table.h"

namespace jang::kernels {

const KernelTable* reference_table() noexcept;
const KernelTable* baseline_table() noexcept;
const KernelTable* x86_avx2_table() noexcept;
const KernelTable* x86_avx2_vnni_table() noexcept;
const KernelTable* x86_avx512_table() noexcept;
const KernelTable* x86_amx_table() noexcept;
const KernelTable* arm_neon_table() noexcept;
const KernelTable* arm_i8mm_table() noexcept;

}  // namespace jang::kernels
