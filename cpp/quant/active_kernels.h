// The kernel table of this process as a reference, or an Error for an unusable JANG_ISA.
#pragma once

#include "kernels/kernel_table.h"

namespace jang {

const kernels::KernelTable& active_kernels();

}  // namespace jang
