// Load, grid, error feedback, polish, store; losses are measured before and after each.
#include "quant/panel_solver.h"

#include <algorithm>
#include <cmath>

#include "quant/active_kernels.h"
#include "quant/coordinate_descent.h"
#include "quant/feedback_solver.h"
#include "quant/kernel_types.h"
#include "quant/refit.h"
#include "quant/target.h"
#include "quant/value_checks.h"

namespace jang {
namespace {

// Passes where there is no factor to solve with.
constexpr int kDescentsAlone = 4;
constexpr double kClippedShare = 0.05;
constexpr float kWiden = 1.05f;

}  // namespace

PanelSolver::PanelSolver(SharedSolve& shared, int64_t most_rows)
    : shared_(shared),
      table_(active_kernels()),
      panel_(shared.format, static_cast<int64_t>(shared.source.columns), most_rows),
      row_major_(static_cast<std::size_t>(most_rows * panel_.columns)),
      row_codes_(row_major_.size()),
      plain_codes_(row_major_.size()),
      row_scales_(static_cast<std::size_t>(most_rows * panel_.groups)),
      row_biases_(row_scales_.size()) {}

// Target, errors and row_major_ are floats; codes, row_codes_, plain_codes_ and wide_codes_ bytes;
// of groups there are five pairs of floats at most. Stored bytes are at most a float each.
ByteCount PanelSolver::bytes(const AffineFormat& format, int64_t columns,
                             int64_t most_rows) noexcept {
  const ByteCount values = ByteCount(columns) * most_rows;
  const ByteCount groups = ByteCount(columns / format.group_size) * most_rows;
  return values * (3 * sizeof(float) + 4) + groups * (10 * sizeof(float)) + PanelScratch::bytes();
}

void PanelSolver::find_correction(int64_t first, int64_t count) {
  load(first, count);
  const int64_t n = panel_.columns;
  float* const v = correction(first);
  const float* const w = panel_.target.data();
  target_correction(table_, shared_.factor, shared_.difference.data(), w, panel_.stride, scratch_,
                    row_major_, v);
  RowSums* const sums = shared_.rows.data() + first;
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t r = 0; r < count; ++r) {
      const auto wide = static_cast<double>(w[k * panel_.stride + r]);
      const auto change = static_cast<double>(v[k * panel_.stride + r]);
      sums[r].weight_square += wide * wide;
      sums[r].correction_square += change * change;
    }
  }
  if (shared_.held_out_difference.size() == 0) return;
  double values[kPanelRows], squares[kPanelRows];
  bilinear_form(table_, shared_.held_out_difference.data(), n, v, w, panel_.stride, count, scratch_,
                values);
  for (int64_t r = 0; r < count; ++r) sums[r].numerator = values[r];
  quadratic_form(table_, shared_.held_out_hessian.data(), n, v, panel_.stride, count, scratch_,
                 values, squares);
  for (int64_t r = 0; r < count; ++r) sums[r].denominator = values[r];
}

void PanelSolver::solve(int64_t first, int64_t count) {
  load(first, count);
  if (shared_.alpha != 0.0) {
    const auto alpha = static_cast<float>(shared_.alpha);
    const float* const v = correction(first);
    for (int64_t i = 0; i < panel_.columns * panel_.stride; ++i)
      panel_.target[static_cast<std::size_t>(i)] += alpha * v[i];
    transpose_out(panel_.target.data(), panel_.stride, count, panel_.columns, row_major_.data());
  }
  find_grid(first);
  RowSums* const sums = shared_.rows.data() + first;
  double values[kPanelRows], squares[kPanelRows];
  measure(panel_.target.data(), values, squares);
  for (int64_t r = 0; r < count; ++r) sums[r].target = values[r];
  panel_.update_errors();
  measure(panel_.errors.data(), values, squares);
  for (int64_t r = 0; r < count; ++r)
    sums[r].plain = sums[r].solved = undamped(values[r], squares[r]);

  const SolveOptions& options = shared_.options;
  int descents = options.descents;
  if (options.feedback && shared_.factor.factored) {
    feedback(values, squares, sums);
    panel_.update_errors();
    measure(panel_.errors.data(), values, squares);
    for (int64_t r = 0; r < count; ++r) sums[r].solved = undamped(values[r], squares[r]);
  } else if (options.feedback) {
    descents = std::max(descents, kDescentsAlone);
  }
  for (int i = 0; i < descents; ++i) descend(table_, shared_.factor, panel_, scratch_);
  for (int i = 0; i < options.polish_rounds; ++i) {
    refit(table_, shared_.factor, panel_, scratch_, shared_.refitted.data() + first);
    descend(table_, shared_.factor, panel_, scratch_);
  }
  if (descents + options.polish_rounds > 0) {
    measure(panel_.errors.data(), values, squares);
    for (int64_t r = 0; r < count; ++r) sums[r].final = undamped(values[r], squares[r]);
  } else {
    for (int64_t r = 0; r < count; ++r) sums[r].final = sums[r].solved;
  }
  store(first);
}

float* PanelSolver::correction(int64_t first) {
  return shared_.corrections.data() + first * panel_.columns;
}

// Loss under the mean H as it is, from one under `values`, which may hold damping.
double PanelSolver::undamped(double loss, double square) const {
  const double added = shared_.factor.values_damping * shared_.factor.mean_diagonal;
  return std::max(0.0, loss - added * square);
}

void PanelSolver::measure(const float* x, double* losses, double* squares) {
  quadratic_form(table_, shared_.factor.values.data(), panel_.columns, x, panel_.stride,
                 panel_.rows, scratch_, losses, squares);
}

// The weights of the rows, row-major and transposed.
void PanelSolver::load(int64_t first, int64_t count) {
  panel_.set_rows(count);
  const SourcePanel& source = shared_.source;
  const auto columns = source.columns;
  const auto values = static_cast<uint64_t>(count) * columns;
  const auto element = static_cast<uint64_t>(dtype_size(source.dtype));
  table_.to_float(kernel_bytes(source.data + static_cast<uint64_t>(first) * columns * element),
                  kernel_type(source.dtype), static_cast<int64_t>(values), row_major_.data());
  const uint64_t bad = first_non_finite({row_major_.data(), values});
  if (bad != values) {
    throw_non_finite(static_cast<uint64_t>(first) + bad / columns, bad % columns, row_major_[bad]);
  }
  transpose_in(row_major_.data(), count, panel_.columns, panel_.stride, panel_.target.data());
}

// Scales and biases by the rule, and the nearest codes to the stored pairs.
void PanelSolver::find_grid(int64_t first) {
  const SolveOptions& options = shared_.options;
  const bool weighted = options.grid == GridRule::kWeighted;
  const int64_t groups = panel_.rows * panel_.groups;
  const kernels::QuantTask task = {
      .values = row_major_.data(),
      .weights = weighted ? shared_.factor.grid_weights.data() : nullptr,
      .weight_groups = panel_.groups,
      .groups = groups,
      .group = panel_.format.group_size,
      .bits = panel_.format.bits,
      .metadata = kernel_type(panel_.format.metadata),
      .scales = row_scales_.data(),
      .biases = row_biases_.data(),
      .codes = row_codes_.data()};
  (options.grid == GridRule::kPlain ? table_.quantize_rtn : table_.quantize_mse)(task);
  check_range(first, row_scales_, "scale");
  check_range(first, row_biases_, "bias");
  if (options.grid == GridRule::kPlain) choose_nearest(groups);
  transpose_in(row_codes_.data(), panel_.rows, panel_.columns, panel_.stride, panel_.codes.data());
  transpose_in(row_scales_.data(), panel_.rows, panel_.groups, panel_.stride, panel_.scales.data());
  transpose_in(row_biases_.data(), panel_.rows, panel_.groups, panel_.stride, panel_.biases.data());
  for (int64_t group = 0; group < panel_.groups; ++group) {
    for (int64_t r = panel_.rows; r < panel_.stride; ++r)
      panel_.scales[static_cast<std::size_t>(group * panel_.stride + r)] = 1.0f;
  }
}

// MLX's codes belong to the pair before it was rounded.
void PanelSolver::choose_nearest(int64_t groups) {
  const int64_t width = panel_.format.group_size;
  const auto most = static_cast<float>(panel_.format.max_code());
  for (int64_t g = 0; g < groups; ++g) {
    const float s = row_scales_[static_cast<std::size_t>(g)];
    const float b = row_biases_[static_cast<std::size_t>(g)];
    for (int64_t i = g * width; i < (g + 1) * width; ++i) {
      const float steps = (row_major_[static_cast<std::size_t>(i)] - b) / s;
      row_codes_[static_cast<std::size_t>(i)] =
          static_cast<uint8_t>(std::nearbyint(std::clamp(steps, 0.0f, most)));
    }
  }
}

void PanelSolver::check_range(int64_t first, const AlignedBuffer<float>& values, const char* what) {
  const auto groups = static_cast<uint64_t>(panel_.groups);
  const auto count = static_cast<uint64_t>(panel_.rows) * groups;
  const uint64_t bad = first_non_finite({values.data(), count});
  if (bad == count) return;
  throw_range(static_cast<uint64_t>(first) + bad / groups,
              bad % groups * static_cast<uint64_t>(panel_.format.group_size), panel_.format, what);
}

// Error feedback; rows for which the nearest codes are better keep those. On entry the losses and
// squared norms of the nearest codes.
void PanelSolver::feedback(const double* plain_losses, const double* squares, RowSums* sums) {
  const HessianFactor& factor = shared_.factor;
  const bool may_widen = shared_.options.widen_clipped && panel_.format.bits <= 3;
  const auto size = static_cast<std::size_t>(panel_.columns * panel_.stride);
  std::copy_n(panel_.codes.data(), size, plain_codes_.data());
  if (may_widen) clipped_.reserve_discarding(panel_.scales.size());
  double losses[kPanelRows];
  solve_with_feedback(table_, factor, panel_, panel_.scales.data(), panel_.biases.data(), scratch_,
                      panel_.errors.data(), panel_.codes.data(), losses,
                      may_widen ? clipped_.data() : nullptr);
  if (may_widen) try_wider(losses, sums);
  const double damping = (factor.lambda - factor.values_damping) * factor.mean_diagonal;
  for (int64_t r = 0; r < panel_.rows; ++r) {
    if (sums[r].widened || losses[r] <= plain_losses[r] + damping * squares[r]) continue;
    sums[r].kept_plain = true;
    for (int64_t k = 0; k < panel_.columns; ++k) {
      const auto at = static_cast<std::size_t>(k * panel_.stride + r);
      panel_.codes[at] = plain_codes_[at];
    }
  }
}

// Groups with many clipped targets get a range 1.05 times as wide about its centre, and the panel
// is solved once more; rows whose loss fell take it over.
void PanelSolver::try_wider(double* losses, RowSums* sums) {
  const auto size = static_cast<std::size_t>(panel_.groups * panel_.stride);
  wide_scales_.reserve_discarding(size);
  wide_biases_.reserve_discarding(size);
  wide_codes_.reserve_discarding(static_cast<std::size_t>(panel_.columns * panel_.stride));
  const float limit = static_cast<float>(kClippedShare * panel_.format.group_size);
  const auto half = static_cast<float>(panel_.format.max_code()) * 0.5f;
  bool any = false;
  for (std::size_t i = 0; i < size; ++i) {
    const bool wide = clipped_[i] > limit;
    const float s = panel_.scales[i];
    wide_scales_[i] = wide ? s * kWiden : s;
    wide_biases_[i] = wide ? panel_.biases[i] + (s - s * kWiden) * half : panel_.biases[i];
    any = any || wide;
  }
  if (!any) return;
  round_to_metadata(wide_scales_);
  round_to_metadata(wide_biases_);
  for (std::size_t i = 0; i < size; ++i) {
    if (std::isfinite(wide_scales_[i]) && std::isfinite(wide_biases_[i])) continue;
    wide_scales_[i] = panel_.scales[i];
    wide_biases_[i] = panel_.biases[i];
  }
  double wide_losses[kPanelRows];
  solve_with_feedback(table_, shared_.factor, panel_, wide_scales_.data(), wide_biases_.data(),
                      scratch_, panel_.errors.data(), wide_codes_.data(), wide_losses, nullptr);
  for (int64_t r = 0; r < panel_.rows; ++r) {
    if (!(wide_losses[r] < losses[r])) continue;
    losses[r] = wide_losses[r];
    sums[r].widened = true;
    for (int64_t g = 0; g < panel_.groups; ++g) {
      const auto at = static_cast<std::size_t>(g * panel_.stride + r);
      panel_.scales[at] = wide_scales_[at];
      panel_.biases[at] = wide_biases_[at];
    }
    for (int64_t k = 0; k < panel_.columns; ++k) {
      const auto at = static_cast<std::size_t>(k * panel_.stride + r);
      panel_.codes[at] = wide_codes_[at];
    }
  }
}

// In place to the nearest values of the metadata type.
void PanelSolver::round_to_metadata(AlignedBuffer<float>& values) {
  const auto count = panel_.groups * panel_.stride;
  const auto type = kernel_type(panel_.format.metadata);
  stored_.reserve_discarding(static_cast<std::size_t>(count) * sizeof(float));
  table_.from_float(values.data(), type, count, stored_.data());
  table_.to_float(stored_.data(), type, count, values.data());
}

void PanelSolver::store(int64_t first) {
  const AffineFormat& format = panel_.format;
  const int64_t groups = panel_.rows * panel_.groups;
  transpose_out(panel_.codes.data(), panel_.stride, panel_.rows, panel_.columns, row_codes_.data());
  transpose_out(panel_.scales.data(), panel_.stride, panel_.rows, panel_.groups,
                row_scales_.data());
  transpose_out(panel_.biases.data(), panel_.stride, panel_.rows, panel_.groups,
                row_biases_.data());
  const auto type = kernel_type(format.metadata);
  const auto row = static_cast<uint64_t>(first);
  const uint64_t metadata_at = row * static_cast<uint64_t>(panel_.groups) *
                               static_cast<uint64_t>(dtype_size(format.metadata));
  table_.from_float(row_scales_.data(), type, groups,
                    kernel_bytes(shared_.out.scales + metadata_at));
  table_.from_float(row_biases_.data(), type, groups,
                    kernel_bytes(shared_.out.biases + metadata_at));
  table_.pack(row_codes_.data(), panel_.rows * panel_.columns, format.bits,
              kernel_bytes(shared_.out.codes + row * format.row_bytes(shared_.source.columns)));
}

}  // namespace jang
