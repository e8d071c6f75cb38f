// Choices by logistic scores, corrections and groups against the definition in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "model/routing.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

struct Choice {
  std::vector<int64_t> chosen;
  std::vector<float> weights, scores, preferences;
};

Choice choose(const MoeSpec& spec, const std::vector<float>& logits,
              const std::vector<float>& correction) {
  Choice choice;
  choice.chosen.resize(static_cast<std::size_t>(spec.top_k));
  choice.weights.resize(choice.chosen.size());
  choice.scores = logits;
  choice.preferences.resize(logits.size(), -7.0f);
  choose_experts(spec, active_kernels(), choice.scores.data(), choice.chosen.data(),
                 choice.weights.data(), correction.empty() ? nullptr : correction.data(),
                 choice.preferences.data());
  return choice;
}

/// The definition, expert by expert.
Choice expected(const MoeSpec& spec, const std::vector<float>& logits,
                const std::vector<float>& correction) {
  const bool sigmoid = spec.rule == RouterRule::kSigmoid;
  std::vector<double> scores(logits.size());
  double all = 0;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    scores[e] = std::exp(static_cast<double>(logits[e]));
    all += scores[e];
  }
  for (std::size_t e = 0; e < scores.size(); ++e)
    scores[e] = sigmoid ? scores[e] / (1.0 + scores[e]) : scores[e] / all;
  std::vector<double> wanted = scores;
  for (std::size_t e = 0; e < correction.size(); ++e)
    wanted[e] += static_cast<double>(correction[e]);
  const auto size = static_cast<std::size_t>(spec.experts / spec.groups);
  std::vector<std::pair<double, std::size_t>> groups;
  for (std::size_t g = 0; g < static_cast<std::size_t>(spec.groups); ++g) {
    std::vector<double> members(wanted.begin() + static_cast<std::ptrdiff_t>(g * size),
                                wanted.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
    std::sort(members.rbegin(), members.rend());
    groups.emplace_back(sigmoid ? members[0] + members[1] : members[0], g);
  }
  std::sort(groups.rbegin(), groups.rend());
  std::vector<int64_t> open;
  for (std::size_t i = 0; i < static_cast<std::size_t>(spec.open_groups); ++i) {
    for (std::size_t e = 0; e < size; ++e)
      open.push_back(static_cast<int64_t>(groups[i].second * size + e));
  }
  std::sort(open.begin(), open.end(), [&](int64_t a, int64_t b) {
    return wanted[static_cast<std::size_t>(a)] > wanted[static_cast<std::size_t>(b)];
  });
  Choice choice;
  choice.chosen.assign(open.begin(), open.begin() + spec.top_k);
  double sum = 0;
  for (const int64_t e : choice.chosen) sum += scores[static_cast<std::size_t>(e)];
  for (const int64_t e : choice.chosen) {
    const double weight = scores[static_cast<std::size_t>(e)] / (spec.renormalize ? sum : 1.0);
    choice.weights.push_back(static_cast<float>(weight * static_cast<double>(spec.weight_scale)));
  }
  return choice;
}

TEST(GroupedRouting, IsTheDefinition) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 1.5f), small(0.0f, 0.3f);
  const struct {
    RouterRule rule;
    int64_t experts, top_k, groups, open;
    bool renormalize, corrected;
    float scale;
  } kCases[] = {
      {RouterRule::kSigmoid, 8, 3, 4, 2, true, true, 2.5f},
      {RouterRule::kSigmoid, 256, 8, 8, 4, true, true, 2.5f},
      {RouterRule::kSigmoid, 128, 8, 1, 1, true, true, 1.0f},
      {RouterRule::kSigmoid, 20, 4, 5, 3, false, true, 0.7f},
      {RouterRule::kSigmoid, 12, 5, 1, 1, false, false, 1.0f},
      {RouterRule::kSigmoid, 12, 12, 6, 6, true, true, 1.5f},
      {RouterRule::kSoftmaxThenTopK, 160, 6, 8, 3, false, false, 16.0f},
      {RouterRule::kSoftmaxThenTopK, 9, 2, 9, 2, false, false, 1.25f},
      {RouterRule::kSoftmaxThenTopK, 64, 6, 1, 1, false, false, 3.0f},
  };
  for (const auto& c : kCases) {
    MoeSpec spec;
    spec.experts = c.experts;
    spec.top_k = c.top_k;
    spec.rule = c.rule;
    spec.groups = c.groups;
    spec.open_groups = c.open;
    spec.renormalize = c.renormalize;
    spec.weight_scale = c.scale;
    EXPECT_EQ(has_preferences(spec), c.rule == RouterRule::kSigmoid || c.groups > 1);
    for (int round = 0; round < 20; ++round) {
      std::vector<float> logits(static_cast<std::size_t>(c.experts)), correction;
      for (float& logit : logits) logit = normal(random);
      if (c.corrected) correction.resize(logits.size());
      for (float& value : correction) value = small(random);
      const Choice found = choose(spec, logits, correction);
      const Choice wanted = expected(spec, logits, correction);
      ASSERT_EQ(found.chosen, wanted.chosen);
      for (std::size_t i = 0; i < wanted.weights.size(); ++i)
        EXPECT_NEAR(found.weights[i], wanted.weights[i], 3e-6f * wanted.weights[i]);
      // The preferences that come out are those whose largest were chosen.
      if (!has_preferences(spec)) continue;
      std::vector<int64_t> again(found.chosen.size());
      active_kernels().top_k(found.preferences.data(), c.experts, c.top_k, again.data());
      EXPECT_EQ(again, found.chosen);
      EXPECT_EQ(std::count(found.preferences.begin(), found.preferences.end(),
                           -std::numeric_limits<float>::infinity()),
                (c.groups - c.open) * (c.experts / c.groups));
    }
  }
}

TEST(GroupedRouting, TheLeastSumKeepsSmallWeightsSmall) {
  MoeSpec spec;
  spec.experts = 3;
  spec.top_k = 2;
  spec.rule = RouterRule::kSigmoid;
  spec.renormalize = true;
  const std::vector<float> logits = {-14.0f, -40.0f, -15.0f};
  const double first = std::exp(-14.0), second = std::exp(-15.0);  // 8.3e-7 and 3.1e-7
  for (const float least : {1e-20f, 1e-6f}) {
    spec.least_sum = least;
    const Choice choice = choose(spec, logits, {});
    EXPECT_EQ(choice.chosen, (std::vector<int64_t>{0, 2}));
    EXPECT_NEAR(choice.weights[0], first / (first + second + static_cast<double>(least)), 1e-5);
    EXPECT_NEAR(choice.weights[1], second / (first + second + static_cast<double>(least)), 1e-5);
  }
}

TEST(GroupedRouting, ProbabilitiesAreSharesOfTheScores) {
  MoeSpec spec;
  spec.experts = 4;
  spec.top_k = 1;
  spec.rule = RouterRule::kSigmoid;
  const std::vector<float> logits = {0.5f, -1.0f, 2.0f, 0.0f};
  const Choice choice = choose(spec, logits, {5.0f, 0.0f, 0.0f, 0.0f});
  EXPECT_EQ(choice.chosen.front(), 0);  // by its correction, which does not weigh
  std::vector<float> found(4);
  router_probabilities(spec, active_kernels(), choice.scores.data(), found.data());
  double sum = 0;
  for (const float logit : logits) sum += 1.0 / (1.0 + std::exp(-static_cast<double>(logit)));
  for (std::size_t e = 0; e < 4; ++e) {
    const double score = 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e])));
    EXPECT_NEAR(static_cast<double>(found[e]), score / sum, 1e-6);
  }
}

TEST(GroupedRouting, NanSpreadsAndNothingIsDividedByZero) {
  MoeSpec spec;
  spec.experts = 6;
  spec.top_k = 2;
  spec.rule = RouterRule::kSigmoid;
  spec.groups = 3;
  spec.open_groups = 2;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool renormalize : {false, true}) {
    spec.renormalize = renormalize;
    const Choice bad = choose(spec, {1, nan, 3, 4, 5, 6}, {});
    for (const float weight : bad.weights) EXPECT_TRUE(std::isnan(weight));
    const Choice low = choose(spec, std::vector<float>(6, -200.0f), {});
    for (const float weight : low.weights) EXPECT_EQ(weight, 0.0f);
  }
}

}  // namespace
}  // namespace jang
