// Polishing of codes one column after another under the full H: every step takes the code that is
// best with all others held, so the loss never rises. Needs no factorization.
#pragma once

#include <cstdint>

#include "quant/hessian_factor.h"
#include "quant/row_panel.h"

namespace jang {

/// One pass over all columns of the panel, whose errors are up to date before and after. Returns
/// the number of codes that changed.
int64_t descend(const kernels::KernelTable& table, const HessianFactor& hessian, RowPanel& panel,
                PanelScratch& scratch);

}  // namespace jang
