// Blocks of 128 columns: errors of all earlier blocks through one product, those of the block
// itself column by column in the kernel. columns^2 / 2 multiply-adds a row.
#include "quant/feedback_solver.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace jang {

void solve_with_feedback(const kernels::KernelTable& table, const HessianFactor& factor,
                         const RowPanel& panel, const float* scales, const float* biases,
                         PanelScratch& scratch, float* errors, uint8_t* codes, double* losses,
                         float* clipped) {
  const int64_t n = panel.columns;
  const int64_t stride = panel.stride;
  const auto row_bytes = static_cast<std::size_t>(stride) * sizeof(float);
  std::array<int32_t, kSolverBlock> groups{};
  float* const block_losses = scratch.row_values.data();
  std::fill_n(losses, panel.rows, 0.0);
  if (clipped != nullptr) std::fill_n(clipped, panel.groups * stride, 0.0f);
  for (int64_t first = 0; first < n; first += kSolverBlock) {
    const int64_t count = std::min(kSolverBlock, n - first);
    const int32_t* const order = factor.order.data() + first;
    for (int64_t k = 0; k < count; ++k) {
      groups[static_cast<std::size_t>(k)] = static_cast<int32_t>(panel.group_of(order[k]));
      std::memcpy(scratch.base.data() + k * stride, panel.target.data() + order[k] * stride,
                  row_bytes);
    }
    std::copy_n(scratch.base.data(), count * stride, scratch.targets.data());
    table.product_f32({.a = factor.a.data() + first,
                       .a_depth_stride = n,
                       .a_row_stride = 1,
                       .b = errors,
                       .b_stride = stride,
                       .weights = nullptr,
                       .c = scratch.targets.data(),
                       .c_stride = stride,
                       .rows = count,
                       .columns = stride,
                       .depth = first,
                       .alpha = -1.0f,
                       .scratch = scratch.product.data()});
    std::fill_n(block_losses, stride, 0.0f);
    table.round_with_feedback({.targets = scratch.targets.data(),
                               .base = scratch.base.data(),
                               .feedback = factor.a.data() + first * n + first,
                               .feedback_stride = n,
                               .scales = scales,
                               .biases = biases,
                               .groups = groups.data(),
                               .costs = factor.costs.data() + first,
                               .errors = errors + first * stride,
                               .codes = scratch.codes.data(),
                               .losses = block_losses,
                               .clipped = clipped,
                               .stride = stride,
                               .rows = stride,
                               .columns = count,
                               .bits = panel.format.bits});
    for (int64_t r = 0; r < panel.rows; ++r) losses[r] += static_cast<double>(block_losses[r]);
    for (int64_t k = 0; k < count; ++k) {
      std::memcpy(codes + order[k] * stride, scratch.codes.data() + k * stride,
                  static_cast<std::size_t>(stride));
    }
  }
}

}  // namespace jang
