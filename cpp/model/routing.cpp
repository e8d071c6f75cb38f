#include "model/routing.h"

#include <algorithm>
#include <cmath>

namespace jang {
namespace {

/// The softmax weight of the last of `picks` among the experts near it that are no earlier pick.
/// The division is that of the definition: a product would put ties at the edge elsewhere.
float weight_among_near(const MoeSpec& spec, const float* logits, std::span<const int64_t> picks) {
  const float top = logits[picks.back()];
  const auto earlier = picks.first(picks.size() - 1);
  float sum = 0.0f;
  for (int64_t e = 0; e < spec.experts; ++e) {
    const float distance = (top - logits[e]) / std::max(std::abs(logits[e]), top);
    if (distance > 2.0f * spec.jitter) continue;
    if (std::find(earlier.begin(), earlier.end(), e) != earlier.end()) continue;
    sum += std::exp(logits[e] - top);
  }
  return 1.0f / sum;
}

}  // namespace

void choose_experts(const MoeSpec& spec, const kernels::KernelTable& kernels, float* logits,
                    int64_t* chosen, float* weights) {
  if (spec.rule == RouterRule::kSparseMixer) {
    kernels.top_k(logits, spec.experts, spec.top_k, chosen);
    const std::span<const int64_t> picks(chosen, static_cast<std::size_t>(spec.top_k));
    for (std::size_t i = 0; i < picks.size(); ++i)
      weights[i] = weight_among_near(spec, logits, picks.first(i + 1));
    return;
  }
  const bool all = spec.rule == RouterRule::kSoftmaxThenTopK;
  if (all) kernels.softmax(logits, spec.experts);
  kernels.top_k(logits, spec.experts, spec.top_k, chosen);
  for (int64_t i = 0; i < spec.top_k; ++i) weights[i] = logits[chosen[i]];
  if (!all) kernels.softmax(weights, spec.top_k);
  if (!spec.renormalize) return;
  float sum = 0.0f;
  for (int64_t i = 0; i < spec.top_k; ++i) sum += weights[i];
  for (int64_t i = 0; i < spec.top_k; ++i) weights[i] /= sum;
}

void router_probabilities(const MoeSpec& spec, const kernels::KernelTable& kernels,
                          const float* scores, float* probabilities) {
  std::copy_n(scores, spec.experts, probabilities);
  if (spec.rule == RouterRule::kTopKThenSoftmax || spec.rule == RouterRule::kSparseMixer)
    kernels.softmax(probabilities, spec.experts);
}

void ExpertGroups::sort(std::span<const int64_t> chosen, int64_t top_k, int64_t experts) {
  const std::size_t pairs = chosen.size();
  next_.assign(static_cast<std::size_t>(experts), 0);
  for (const int64_t expert : chosen) ++next_[static_cast<std::size_t>(expert)];
  groups_.clear();
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t rows = next_[static_cast<std::size_t>(e)];
    if (rows != 0) groups_.push_back({e, 0, rows, 0});
  }
  std::sort(groups_.begin(), groups_.end(), [](const ExpertRows& a, const ExpertRows& b) {
    return a.rows != b.rows ? a.rows > b.rows : a.expert < b.expert;
  });
  int64_t place = 0;
  for (ExpertRows& group : groups_) {
    group.first = next_[static_cast<std::size_t>(group.expert)] = place;
    place += group.rows;
  }
  places_.resize(pairs);
  tokens_.resize(pairs);
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const int64_t at = next_[static_cast<std::size_t>(chosen[pair])]++;
    places_[pair] = at;
    tokens_[static_cast<std::size_t>(at)] =
        static_cast<int32_t>(static_cast<int64_t>(pair) / top_k);
  }
  picked_.clear();
  const int64_t tokens = static_cast<int64_t>(pairs) / top_k;
  for (ExpertRows& group : groups_) {
    const auto begin = tokens_.begin() + group.first;
    const auto end = begin + group.rows;
    // Tokens of a group rise, no token is in it twice.
    if (*(end - 1) - *begin + 1 == group.rows) {
      group.source = *begin;
      continue;
    }
    group.source = tokens + static_cast<int64_t>(picked_.size());
    picked_.insert(picked_.end(), begin, end);
  }
}

}  // namespace jang
