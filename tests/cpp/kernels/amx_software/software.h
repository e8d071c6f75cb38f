// The one symbol of the object with software tiles.
#pragma once

#include "kernels/kernel_table.h"

namespace jang::kernels {

/// The own entries of the amx level over tile operations in plain code; others are null.
const KernelTable* amx_software_table() noexcept;

}  // namespace jang::kernels
