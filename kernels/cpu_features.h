// What this CPU and its operating system can execute.
#pragma once

#include "kernels/kernel_table.h"

namespace jang::kernels {

/// Whether code of `level` runs here, whether or not this program contains any.
bool cpu_runs(Level level) noexcept;

}  // namespace jang::kernels
