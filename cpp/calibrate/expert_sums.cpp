#include "calibrate/expert_sums.h"

#include "quant/hessian.h"

namespace jang {
namespace {

LinearSums zeros(int64_t experts, int64_t columns) {
  return {std::vector<double>(static_cast<std::size_t>(experts * columns)),
          std::vector<int64_t>(static_cast<std::size_t>(experts))};
}

/// A token at the expert it chose.
struct Visit {
  int64_t token, place;
  float gate;
};

/// Caps of `rows` rows, the `skipped` ones not among them: they count as 1.
std::vector<float> caps(const float* rows, int64_t count, int64_t columns, int64_t skipped,
                        ThreadPool& pool) {
  std::vector<float> norms(static_cast<std::size_t>(count - skipped));
  pool.split(count - skipped, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = rows + (i + skipped) * columns;
      double sum = 0.0;
      for (int64_t j = 0; j < columns; ++j) {
        sum += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      }
      norms[static_cast<std::size_t>(i)] = static_cast<float>(sum);
    }
  });
  std::vector<float> weights = capped_token_weights(norms);
  weights.insert(weights.begin(), static_cast<std::size_t>(skipped), 1.0f);
  return weights;
}

void add_row(const float* row, double weight, double* sums, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) {
    const auto value = static_cast<double>(row[j]);
    sums[j] += weight * (value * value);
  }
}

}  // namespace

ExpertSums::ExpertSums(const MoeSpec& spec)
    : experts_(spec.experts),
      top_k_(spec.top_k),
      hidden_(spec.up.in),
      width_(spec.down.in),
      input_(zeros(experts_, hidden_)),
      inner_(zeros(experts_, width_)) {}

void ExpertSums::add(const float* x, const Workspace& work, int64_t tokens, ThreadPool& pool) {
  std::vector<std::vector<Visit>> visits(static_cast<std::size_t>(experts_));
  for (int64_t t = 1; t < tokens; ++t) {
    for (int64_t pair = t * top_k_; pair < (t + 1) * top_k_; ++pair) {
      const auto at = static_cast<std::size_t>(pair);
      visits[static_cast<std::size_t>(work.chosen[at])].push_back(
          {t, work.groups.places()[at], work.expert_weights[at]});
    }
  }
  const float* const inner = work.gate.data();  // [place][width]
  const std::vector<float> input_caps = caps(x, tokens, hidden_, 1, pool);
  const std::vector<float> inner_caps = caps(inner, tokens * top_k_, width_, 0, pool);
  pool.share(experts_, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t e = begin; e < end; ++e) {
      const auto expert = static_cast<std::size_t>(e);
      for (const Visit& visit : visits[expert]) {
        const double squared = static_cast<double>(visit.gate) * static_cast<double>(visit.gate);
        add_row(x + visit.token * hidden_,
                squared * static_cast<double>(input_caps[static_cast<std::size_t>(visit.token)]),
                input_.sum_x2.data() + e * hidden_, hidden_);
        add_row(inner + visit.place * width_,
                squared * static_cast<double>(inner_caps[static_cast<std::size_t>(visit.place)]),
                inner_.sum_x2.data() + e * width_, width_);
      }
      const auto count = static_cast<int64_t>(visits[expert].size());
      input_.count[expert] += count;
      inner_.count[expert] += count;
    }
  });
}

}  // namespace jang
