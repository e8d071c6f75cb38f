// The asymmetric target: what the codes should stand for when a layer's inputs already carry the
// error of the quantized layers before it.
//
// min ||W X - W_hat Xq||^2 has its real optimum at W C H^-1, H = Xq Xq^T, C = X Xq^T. The target is
// W* = W + alpha V, V = W (C - H) (H + l I)^-1, with l the damping of the factor.
#pragma once

#include <cstdint>

#include "quant/hessian_factor.h"
#include "quant/row_panel.h"

namespace jang {

/// C - H as means, row-major in float32. Throws kNonFinite, kArgument as factor_hessian does.
AlignedBuffer<float> cross_difference(const CrossMoment& cross, const Hessian& hessian,
                                      ThreadPool& pool);

/// correction = V of a panel, [columns][stride] as `weights` is. `factor` must be factored.
void target_correction(const kernels::KernelTable& table, const HessianFactor& factor,
                       const float* difference, const float* weights, int64_t stride,
                       PanelScratch& scratch, AlignedBuffer<float>& work, float* correction);

}  // namespace jang
