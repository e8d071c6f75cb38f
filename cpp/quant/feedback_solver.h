// The error-feedback solver of a panel of rows: GPTQ without an inverse.
//
// With H = A D A^T in the order of rounding and E = W_hat - W, the loss is sum_k D_k (E A)_k^2, and
// (E A)_k = w_hat_k - t_k for t_k = w_k - sum over i < k of E_i A_ik. Rounding each t_k to the
// nearest code, in order, is what GPTQ does. W stays as it is.
#pragma once

#include <cstdint>

#include "quant/hessian_factor.h"
#include "quant/row_panel.h"

namespace jang {

/// Rounds all columns of the panel on its scales and biases. `codes` ([columns][stride]) and
/// losses[r] (under the damped H) are outputs; clipped ([groups][stride]) counts targets more than
/// half a step outside the grid, or is null. `errors`: [columns][stride], by position, scratch.
void solve_with_feedback(const kernels::KernelTable& table, const HessianFactor& factor,
                         const RowPanel& panel, const float* scales, const float* biases,
                         PanelScratch& scratch, float* errors, uint8_t* codes, double* losses,
                         float* clipped);

}  // namespace jang
