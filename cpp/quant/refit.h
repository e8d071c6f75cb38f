// Scales and biases anew for codes that stay: least squares under the full H, group after group.
#pragma once

#include <cstdint>

#include "quant/hessian_factor.h"
#include "quant/row_panel.h"

namespace jang {

/// One sweep over the groups of the panel, whose errors are up to date before and after. A pair is
/// replaced only by a stored pair with a lower loss. changed[r] is set for each row that gained.
void refit(const kernels::KernelTable& table, const HessianFactor& hessian, RowPanel& panel,
           PanelScratch& scratch, uint8_t* changed);

}  // namespace jang
