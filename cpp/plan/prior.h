// What is known about losses before anything is measured: how much an error in each kind of matrix
// costs, and how large the error of each width is (docs/quantization.md, "Allocation").
#pragma once

#include "plan/plan.h"
#include "plan/widths.h"
#include "quant/affine_format.h"

namespace jang {

/// a of the model sum a*e: rho by role, twice that at both ends of the stack, times the weights
/// that a token meets.
double prior_sensitivity(const WidthContext& context, const FinalTensor& tensor) noexcept;

/// e: mean squared error over mean square of the weights, by `mse`; measured, see
/// tools/prior_errors.py.
double prior_error(int bits, int group_size) noexcept;

/// The sum of a*e over the quantized tensors of a plan: what allocation lowers, so that any two
/// plans of one model can be compared. Unquantized tensors and lattices lose nothing.
double prior_loss(const WidthContext& context, const Plan& plan) noexcept;

}  // namespace jang
