// Two ways to run the amx kernels without tiles: compiled over a model of them, and as they are
// built for the program, every tile instruction carried out by the model when it traps.
#pragma once

#include "kernels/kernel_table.h"

namespace jang::kernels {

/// The own entries of the amx level over tile operations in plain code; others are null.
const KernelTable* amx_software_table() noexcept;

/// From here on an illegal instruction that is one of the level's tile instructions is carried out
/// in plain code, and any other ends the program as before. For machines without tiles.
void carry_out_trapped_tiles();

}  // namespace jang::kernels
