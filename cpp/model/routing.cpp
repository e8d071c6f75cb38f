#include "model/routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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

/// Scores that are logistic functions of logits, in place; `ones` is overwritten.
void take_sigmoid(const kernels::KernelTable& kernels, float* logits, float* ones, int64_t n) {
  std::fill_n(ones, n, 1.0f);
  kernels.sigmoid_mul(ones, logits, n, logits);
}

/// Leaves only the experts of the best groups among the preferences.
void close_groups(const MoeSpec& spec, const kernels::KernelTable& kernels, float* preferences) {
  std::array<float, kMaxExpertGroups> scores;
  std::array<int64_t, kMaxExpertGroups> order;
  const int64_t size = spec.experts / spec.groups;
  const bool two = spec.rule == RouterRule::kSigmoid;
  for (int64_t g = 0; g < spec.groups; ++g) {
    const float* group = preferences + g * size;
    int64_t best[2];
    kernels.top_k(group, size, two ? 2 : 1, best);
    scores[static_cast<std::size_t>(g)] = two ? group[best[0]] + group[best[1]] : group[best[0]];
  }
  kernels.top_k(scores.data(), spec.groups, spec.groups, order.data());
  for (int64_t i = spec.open_groups; i < spec.groups; ++i) {
    std::fill_n(preferences + order[static_cast<std::size_t>(i)] * size, size,
                -std::numeric_limits<float>::infinity());
  }
}

}  // namespace

bool has_preferences(const MoeSpec& spec) noexcept {
  return spec.rule == RouterRule::kSigmoid || spec.groups > 1;
}

void choose_experts(const MoeSpec& spec, const kernels::KernelTable& kernels, float* logits,
                    int64_t* chosen, float* weights, const float* correction, float* preferences) {
  if (spec.rule == RouterRule::kSparseMixer) {
    kernels.top_k(logits, spec.experts, spec.top_k, chosen);
    const std::span<const int64_t> picks(chosen, static_cast<std::size_t>(spec.top_k));
    for (std::size_t i = 0; i < picks.size(); ++i)
      weights[i] = weight_among_near(spec, logits, picks.first(i + 1));
    return;
  }
  const bool sigmoid = spec.rule == RouterRule::kSigmoid;
  const bool late = spec.rule == RouterRule::kTopKThenSoftmax;
  if (sigmoid) {
    take_sigmoid(kernels, logits, preferences, spec.experts);
  } else if (!late) {
    kernels.softmax(logits, spec.experts);
  }
  const float* order = logits;
  if (has_preferences(spec)) {
    std::copy_n(logits, spec.experts, preferences);
    if (correction != nullptr) kernels.add(preferences, correction, spec.experts);
    if (spec.groups > 1) close_groups(spec, kernels, preferences);
    order = preferences;
  }
  kernels.top_k(order, spec.experts, spec.top_k, chosen);
  for (int64_t i = 0; i < spec.top_k; ++i) weights[i] = logits[chosen[i]];
  if (late) kernels.softmax(weights, spec.top_k);
  if (spec.renormalize) {
    float sum = sigmoid ? spec.least_sum : 0.0f;
    for (int64_t i = 0; i < spec.top_k; ++i) sum += weights[i];
    for (int64_t i = 0; i < spec.top_k; ++i) weights[i] /= sum;
  }
  if (spec.weight_scale != 1.0f) kernels.scale(weights, spec.weight_scale, spec.top_k);
  // Unlike a softmax, logistic functions keep a NaN to themselves.
  if (sigmoid && std::any_of(logits, logits + spec.experts, [](float s) { return s != s; }))
    std::fill_n(weights, spec.top_k, std::numeric_limits<float>::quiet_NaN());
}

void router_probabilities(const MoeSpec& spec, const kernels::KernelTable& kernels,
                          const float* scores, float* probabilities) {
  std::copy_n(scores, spec.experts, probabilities);
  if (spec.rule == RouterRule::kTopKThenSoftmax || spec.rule == RouterRule::kSparseMixer)
    kernels.softmax(probabilities, spec.experts);
  if (spec.rule != RouterRule::kSigmoid) return;
  float sum = spec.least_sum;
  for (int64_t e = 0; e < spec.experts; ++e) sum += scores[e];
  kernels.scale(probabilities, 1.0f / sum, spec.experts);
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
