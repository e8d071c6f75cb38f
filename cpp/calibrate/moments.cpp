#include "calibrate/moments.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"

namespace jang {

InputMoments::InputMoments(int64_t columns, HessianKind kind, bool two_streams, int64_t sequences)
    : hessian_(columns, kind) {
  if (!two_streams || kind != HessianKind::kFull) return;
  cross_.emplace(columns);
  if (sequences < kHeldOut) return;
  held_cross_.emplace(columns);
  held_hessian_.emplace(columns, kind);
}

ByteCount InputMoments::bytes(int64_t columns, HessianKind kind, bool two_streams,
                              int64_t sequences) noexcept {
  ByteCount all = Hessian::bytes(columns, kind);
  if (!two_streams || kind != HessianKind::kFull) return all;
  all += CrossMoment::bytes(columns);
  if (sequences >= kHeldOut) all += CrossMoment::bytes(columns) + Hessian::bytes(columns, kind);
  return all;
}

bool InputMoments::holds_out(int64_t sequence) const noexcept {
  return held_cross_.has_value() && sequence % kHeldOut == kHeldOut - 1;
}

void InputMoments::add(int64_t sequence, const float* quantized, const float* full, int64_t tokens,
                       ThreadPool& pool) {
  const int64_t columns = hessian_.columns();
  const int64_t rows = tokens - 1;
  const float* const x = quantized + columns;
  norms_.resize(static_cast<std::size_t>(rows));
  pool.split(rows, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      double sum = 0.0;
      for (int64_t i = 0; i < columns; ++i) {
        const auto value = static_cast<double>(x[t * columns + i]);
        sum += value * value;
      }
      norms_[static_cast<std::size_t>(t)] = static_cast<float>(sum);
    }
  });
  const std::vector<float> weights = capped_token_weights(norms_);
  const bool held = holds_out(sequence);
  (held ? *held_hessian_ : hessian_).add(x, columns, rows, weights, pool);
  if (!cross_) return;
  (held ? *held_cross_ : *cross_).add(full + columns, x, columns, rows, weights, pool);
}

void InputMoments::add_identity() {
  JANG_ASSERT(!cross_ && hessian_.kind() == HessianKind::kFull);
  const auto n = static_cast<std::size_t>(hessian_.columns());
  std::vector<double> sums(hessian_.values(), hessian_.values() + n * n);
  double mean = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += sums[i * n + i] / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) sums[i * n + i] += mean;
  hessian_ = Hessian::from_sums(hessian_.columns(), HessianKind::kFull, sums, hessian_.tokens(),
                                hessian_.weight());
}

GptqSolver InputMoments::solver(ThreadPool& pool) {
  GptqSolver solver(hessian_, {}, pool);
  if (cross_) solver.set_target(*cross_, hessian_, pool);
  if (held_cross_) solver.set_held_out(*held_cross_, *held_hessian_, pool);
  return solver;
}

std::vector<float> column_weights(const Hessian& hessian) {
  std::vector<float> weights(static_cast<std::size_t>(hessian.columns()));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<float>(hessian.diagonal(static_cast<int64_t>(i)) / hessian.weight());
  }
  std::vector<float> positive;
  std::copy_if(weights.begin(), weights.end(), std::back_inserter(positive),
               [](float w) { return w > 0.0f; });
  if (positive.empty()) return std::vector<float>(weights.size(), 1.0f);
  const auto middle = positive.begin() + static_cast<std::ptrdiff_t>(positive.size() / 2);
  std::nth_element(positive.begin(), middle, positive.end());
  for (float& w : weights) w = std::max(w, 1e-4f * *middle);
  return weights;
}

}  // namespace jang
