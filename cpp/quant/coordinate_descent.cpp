// With E = W_hat - W and M = E H, the best value of column k is w_hat_k - M_k / H_kk. A block of
// 128 columns takes M fresh from the current E (one product), then its own changes as feedback H_ik
// / H_kk: the recurrence of the solver, with W_hat in the place of W. Nothing drifts, and dense
// products are faster than following the few changes through memory.
#include "quant/coordinate_descent.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace jang {

int64_t descend(const kernels::KernelTable& table, const HessianFactor& hessian, RowPanel& panel,
                PanelScratch& scratch) {
  const int64_t n = panel.columns;
  const int64_t stride = panel.stride;
  const std::array<float, kSolverBlock> costs{};
  std::array<int32_t, kSolverBlock> groups{};
  std::fill_n(scratch.row_values.data(), stride, 0.0f);
  int64_t changed = 0;
  for (int64_t first = 0; first < n; first += kSolverBlock) {
    const int64_t count = std::min(kSolverBlock, n - first);
    const float* const h = hessian.values.data() + first;
    const float* const gradient = product_columns(table, hessian.values.data(), n, first, count,
                                                  panel.errors.data(), stride, scratch);
    const auto block_at = static_cast<std::size_t>(first * stride);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t group = panel.group_of(first + k);
      groups[static_cast<std::size_t>(k)] = static_cast<int32_t>(group);
      const float inverse = hessian.inverse_diagonal[static_cast<std::size_t>(first + k)];
      const float* const s = panel.scales.data() + group * stride;
      const float* const b = panel.biases.data() + group * stride;
      const uint8_t* const q = panel.codes.data() + block_at + k * stride;
      float* const base = scratch.base.data() + k * stride;
      float* const target = scratch.targets.data() + k * stride;
      for (int64_t r = 0; r < stride; ++r) {
        base[r] = s[r] * static_cast<float>(q[r]) + b[r];
        target[r] = base[r] - gradient[k * stride + r] * inverse;
      }
      for (int64_t i = 0; i < k; ++i)
        scratch.feedback[static_cast<std::size_t>(i * kSolverBlock + k)] =
            h[(first + i) * n + k] * inverse;
    }
    table.round_with_feedback({.targets = scratch.targets.data(),
                               .base = scratch.base.data(),
                               .feedback = scratch.feedback.data(),
                               .feedback_stride = kSolverBlock,
                               .scales = panel.scales.data(),
                               .biases = panel.biases.data(),
                               .groups = groups.data(),
                               .costs = costs.data(),
                               .errors = scratch.errors.data(),
                               .codes = scratch.codes.data(),
                               .losses = scratch.row_values.data(),
                               .clipped = nullptr,
                               .stride = stride,
                               .rows = stride,
                               .columns = count,
                               .bits = panel.format.bits});
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t* const before = panel.codes.data() + block_at + k * stride;
      const uint8_t* const after = scratch.codes.data() + k * stride;
      for (int64_t r = 0; r < panel.rows; ++r) changed += before[r] != after[r] ? 1 : 0;
    }
    std::memcpy(panel.codes.data() + block_at, scratch.codes.data(),
                static_cast<std::size_t>(count * stride));
    panel.update_errors(first, first + count);
  }
  return changed;
}

}  // namespace jang
