// Panels of up to 192 rows go through all steps on one thread; sums over rows are taken in row
// order afterwards.
#include "quant/gptq.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/large_pages.h"
#include "quant/panel_solver.h"
#include "quant/target.h"

namespace jang {
namespace {

constexpr double kAlphaWithoutHeldOut = 0.5;

// All rows of a panel fill lanes; small matrices are cut finer, so that every thread has some.
int64_t panel_rows(int64_t rows, int threads) {
  constexpr int64_t kGrain = kernels::kFeedbackRows;
  const int64_t share = (rows + threads - 1) / threads;
  return std::clamp((share + kGrain - 1) / kGrain * kGrain, kGrain, kPanelRows);
}

double choose_alpha(const SharedSolve& shared, bool held_out) {
  double numerator = 0.0, denominator = 0.0, weights = 0.0, corrections = 0.0;
  for (const RowSums& row : shared.rows) {
    numerator += row.numerator;
    denominator += row.denominator;
    weights += row.weight_square;
    corrections += row.correction_square;
  }
  double alpha = kAlphaWithoutHeldOut;
  if (held_out) alpha = denominator > 0.0 ? std::clamp(numerator / denominator, 0.0, 1.0) : 0.0;
  if (!(corrections > 0.0)) return 0.0;
  return std::min(alpha, shared.options.target_limit * std::sqrt(weights / corrections));
}

SolveReport summarize(const SharedSolve& shared) {
  SolveReport report;
  report.lambda = shared.factor.lambda;
  report.alpha = shared.alpha;
  report.factor_attempts = shared.factor.attempts;
  report.factored = shared.factor.factored;
  report.rows = shared.rows.size();
  double target = 0.0;
  for (const RowSums& row : shared.rows) {
    target += row.target;
    report.plain_error += row.plain;
    report.solved_error += row.solved;
    report.error += row.final;
    report.rows_plain += row.kept_plain ? 1 : 0;
    report.rows_widened += row.widened ? 1 : 0;
  }
  for (const uint8_t refitted : shared.refitted) report.rows_refitted += refitted;
  const double scale = target > 0.0 ? 1.0 / target : 0.0;
  report.plain_error *= scale;
  report.solved_error *= scale;
  report.error *= scale;
  return report;
}

}  // namespace

GptqSolver::GptqSolver(Hessian& hessian, const FactorOptions& options, ThreadPool& pool)
    : factor_(factor_hessian(hessian, options, pool)) {}

void GptqSolver::set_target(const CrossMoment& cross, const Hessian& hessian, ThreadPool& pool) {
  difference_ = cross_difference(cross, hessian, pool);
}

void GptqSolver::set_held_out(const CrossMoment& cross, Hessian& hessian, ThreadPool& pool) {
  held_out_difference_ = cross_difference(cross, hessian, pool);
  hessian.symmetrize(pool);
  held_out_hessian_ = large_page_buffer<float>(held_out_difference_.size());
  for (std::size_t i = 0; i < held_out_hessian_.size(); ++i)
    held_out_hessian_[i] = static_cast<float>(hessian.values()[i] / hessian.weight());
}

ByteCount GptqSolver::bytes(const Inputs& inputs) noexcept {
  const int differences = (inputs.target ? 1 : 0) + (inputs.held_out ? 2 : 0);
  return HessianFactor::bytes(inputs.columns) +
         ByteCount(inputs.columns) * inputs.columns * (differences * sizeof(float));
}

ByteCount GptqSolver::making_bytes(const Inputs& inputs, int threads) noexcept {
  return std::max(
      HessianFactor::bytes(inputs.columns) + HessianFactor::making_bytes(inputs.columns, threads),
      bytes(inputs));
}

ByteCount GptqSolver::quantize_bytes(const Inputs& inputs, const AffineFormat& format, int64_t rows,
                                     int threads) noexcept {
  const int64_t height = panel_rows(rows, threads);
  const int64_t panels = (rows + height - 1) / height;
  ByteCount bytes =
      ByteCount(rows) * (sizeof(RowSums) + 1) +
      PanelSolver::bytes(format, inputs.columns, height) * std::min<int64_t>(threads, panels);
  if (inputs.target)
    bytes += (ByteCount(rows) + kernels::kFeedbackRows) * inputs.columns * sizeof(float);
  return bytes;
}

SolveReport GptqSolver::quantize(const SourcePanel& source, const AffineFormat& format,
                                 const SolveOptions& options, const AffinePanel& out,
                                 ThreadPool& pool) const {
  JANG_ASSERT(static_cast<int64_t>(source.columns) == factor_.columns);
  JANG_ASSERT(is_bit_width(format.bits) && is_group_size(format.group_size));
  JANG_ASSERT(source.columns % static_cast<uint64_t>(format.group_size) == 0);
  SharedSolve shared{
      factor_,           source, format, options, out, difference_, held_out_difference_,
      held_out_hessian_, {},     {},     {},      0.0};
  shared.rows.resize(source.rows);
  shared.refitted.resize(source.rows);
  const auto rows = static_cast<int64_t>(source.rows);
  const int64_t height = panel_rows(rows, pool.size());
  std::vector<std::unique_ptr<PanelSolver>> solvers(static_cast<std::size_t>(pool.size()));
  const auto each_panel = [&](auto&& step) {
    pool.share(rows, height, [&](int64_t begin, int64_t end, int worker) {
      auto& solver = solvers[static_cast<std::size_t>(worker)];
      if (!solver) solver = std::make_unique<PanelSolver>(shared, height);
      step(*solver, begin, end - begin);
    });
  };
  if (difference_.size() != 0 && factor_.factored) {
    // A last panel's padding rows lie behind the matrix.
    shared.corrections = AlignedBuffer<float>(static_cast<std::size_t>(
        (rows + kernels::kFeedbackRows) * static_cast<int64_t>(source.columns)));
    each_panel([](PanelSolver& solver, int64_t first, int64_t count) {
      solver.find_correction(first, count);
    });
    shared.alpha = choose_alpha(shared, held_out_difference_.size() != 0);
  }
  each_panel([](PanelSolver& solver, int64_t first, int64_t count) { solver.solve(first, count); });
  return summarize(shared);
}

}  // namespace jang
