// The choice of experts against double, and the sorting of pairs against its own definition.
#include "model/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "quant/active_kernels.h"

namespace jang {
namespace {

struct Choice {
  std::vector<int64_t> chosen;
  std::vector<float> weights;
};

MoeSpec router(int64_t experts, int64_t top_k, RouterRule rule, bool renormalize) {
  MoeSpec spec;
  spec.experts = experts;
  spec.top_k = top_k;
  spec.rule = rule;
  spec.renormalize = renormalize;
  return spec;
}

Choice choose(const MoeSpec& spec, std::vector<float> logits) {
  Choice choice;
  choice.chosen.resize(static_cast<std::size_t>(spec.top_k));
  choice.weights.resize(static_cast<std::size_t>(spec.top_k));
  choose_experts(spec, active_kernels(), logits.data(), choice.chosen.data(),
                 choice.weights.data());
  return choice;
}

TEST(Routing, WeightsAreThoseOfTheRule) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (const int64_t experts : {1, 5, 8, 37, 128}) {
    for (const int64_t top_k : {int64_t{1}, std::min<int64_t>(experts, 4), experts}) {
      std::vector<float> logits(static_cast<std::size_t>(experts));
      for (float& logit : logits) logit = normal(random);
      std::vector<int64_t> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
      });
      const auto raised = [&](int64_t e) {
        return std::exp(static_cast<double>(logits[static_cast<std::size_t>(e)]));
      };
      double all = 0, best = 0;
      for (const int64_t e : order) all += raised(e);
      order.resize(static_cast<std::size_t>(top_k));
      for (const int64_t e : order) best += raised(e);
      const struct {
        RouterRule rule;
        bool renormalize;
        double divisor;
      } kCases[] = {{RouterRule::kSoftmaxThenTopK, false, all},
                    {RouterRule::kSoftmaxThenTopK, true, best},
                    {RouterRule::kTopKThenSoftmax, false, best}};
      for (const auto& c : kCases) {
        const Choice found = choose(router(experts, top_k, c.rule, c.renormalize), logits);
        EXPECT_EQ(found.chosen, order);
        for (std::size_t i = 0; i < order.size(); ++i) {
          const double expected = raised(order[i]) / c.divisor;
          EXPECT_NEAR(static_cast<double>(found.weights[i]), expected, 2e-6 * expected + 1e-12);
        }
      }
    }
  }
}

TEST(Routing, ProbabilitiesAreOfAllExpertsByEveryRule) {
  const std::vector<float> logits = {0.5f, -1.0f, 2.0f, 0.0f, 1.5f};
  double all = 0;
  for (const float logit : logits) all += std::exp(static_cast<double>(logit));
  for (const RouterRule rule :
       {RouterRule::kSoftmaxThenTopK, RouterRule::kTopKThenSoftmax, RouterRule::kSparseMixer}) {
    const MoeSpec spec = router(5, 2, rule, true);
    std::vector<float> scores = logits, weights(2), found(5);
    std::vector<int64_t> chosen(2);
    choose_experts(spec, active_kernels(), scores.data(), chosen.data(), weights.data());
    router_probabilities(spec, active_kernels(), scores.data(), found.data());
    for (std::size_t e = 0; e < 5; ++e) {
      EXPECT_NEAR(static_cast<double>(found[e]), std::exp(static_cast<double>(logits[e])) / all,
                  1e-6);
    }
  }
}

// By its definition, in double: chosen one by one, each weighed among those left that are near.
TEST(Routing, SparseMixerWeighsAmongNearExperts) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  int shared = 0, alone = 0;
  for (const float jitter : {0.0f, 0.01f, 0.2f, 0.5f}) {
    for (const int64_t experts : {2, 4, 16, 40}) {
      for (const int64_t top_k : {2, 4}) {  // 4: calibration asks for twice as many
        if (top_k > experts) continue;
        MoeSpec spec = router(experts, top_k, RouterRule::kSparseMixer, false);
        spec.jitter = jitter;
        for (int repeat = 0; repeat < 20; ++repeat) {
          std::vector<float> logits(static_cast<std::size_t>(experts));
          const float shift = repeat % 2 == 0 ? 0.0f : -3.0f;  // all logits below 0
          for (float& logit : logits) logit = normal(random) + shift;
          const Choice found = choose(spec, logits);
          std::vector<bool> taken(logits.size());
          for (std::size_t slot = 0; slot < found.chosen.size(); ++slot) {
            std::size_t best = logits.size();
            for (std::size_t e = 0; e < logits.size(); ++e) {
              if (!taken[e] && (best == logits.size() || logits[e] > logits[best])) best = e;
            }
            double sum = 0;
            const double top = logits[best];
            for (std::size_t e = 0; e < logits.size(); ++e) {
              const double a = logits[e];
              const bool far = (top - a) / std::max(std::abs(a), top) > 2.0 * jitter;
              if (!taken[e] && !far) sum += std::exp(a - top);
            }
            ASSERT_EQ(found.chosen[slot], static_cast<int64_t>(best));
            EXPECT_NEAR(static_cast<double>(found.weights[slot]), 1 / sum, 1e-6);
            ++(sum > 1.0 ? shared : alone);
            taken[best] = true;
          }
        }
      }
    }
  }
  EXPECT_GT(shared, 300);
  EXPECT_GT(alone, 300);
}

TEST(Routing, SparseMixerAtTheEdges) {
  MoeSpec spec = router(4, 2, RouterRule::kSparseMixer, false);
  spec.jitter = 0.125f;
  // A quarter of the top away: just near. The first pick is not among those near the second.
  Choice found = choose(spec, {1.0f, 4.0f, 3.0f, 0.0f});
  EXPECT_EQ(found.chosen, (std::vector<int64_t>{1, 2}));
  EXPECT_NEAR(found.weights[0], 1 / (1 + std::exp(-1.0f)), 1e-6f);
  EXPECT_EQ(found.weights[1], 1.0f);
  // 0 of 0 is near.
  found = choose(spec, {-5.0f, 0.0f, 0.0f, -5.0f});
  EXPECT_EQ(found.chosen, (std::vector<int64_t>{1, 2}));
  EXPECT_NEAR(found.weights[0], 0.5f, 1e-6f);
  EXPECT_EQ(found.weights[1], 1.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float weight : choose(spec, {1, nan, 3, 4}).weights) EXPECT_TRUE(std::isnan(weight));
}

TEST(Routing, EqualLogitsGoByNumberAndNanSpreads) {
  const MoeSpec spec = router(6, 3, RouterRule::kSoftmaxThenTopK, true);
  const Choice even = choose(spec, {1, 2, 2, 1, 2, 2});
  EXPECT_EQ(even.chosen, (std::vector<int64_t>{1, 2, 4}));
  for (const float weight : even.weights) EXPECT_NEAR(weight, 1.0f / 3, 1e-6f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Choice bad = choose(spec, {1, nan, 3, 4, 5, 6});
  EXPECT_EQ(std::set<int64_t>(bad.chosen.begin(), bad.chosen.end()).size(), 3u);
  for (const float weight : bad.weights) EXPECT_TRUE(std::isnan(weight));
}

TEST(Routing, GroupsHoldEveryPairOnce) {
  std::mt19937 random(2);
  for (const int64_t tokens : {1, 2, 3, 17, 256}) {
    for (const int64_t top_k : {1, 2, 8}) {
      constexpr int64_t kExperts = 20;
      std::vector<int64_t> chosen;
      std::vector<int64_t> numbers(kExperts);
      std::iota(numbers.begin(), numbers.end(), 0);
      for (int64_t t = 0; t < tokens; ++t) {
        std::shuffle(numbers.begin(), numbers.end(), random);
        chosen.insert(chosen.end(), numbers.begin(), numbers.begin() + top_k);
      }
      ExpertGroups groups;
      groups.sort(chosen, top_k, kExperts);
      // Places lead back to the expert, and to the token of the row that lies there.
      std::vector<int64_t> owner(chosen.size(), -1), token(chosen.size(), -1);
      int64_t place = 0;
      for (std::size_t g = 0; g < groups.groups().size(); ++g) {
        const ExpertRows& group = groups.groups()[g];
        EXPECT_EQ(group.first, place);
        EXPECT_GT(group.rows, 0);
        if (g > 0) {
          EXPECT_LE(group.rows, groups.groups()[g - 1].rows);
        }
        for (int64_t i = 0; i < group.rows; ++i, ++place) {
          const int64_t source = group.source + i;
          owner[static_cast<std::size_t>(place)] = group.expert;
          token[static_cast<std::size_t>(place)] =
              source < tokens ? source : groups.picked()[static_cast<std::size_t>(source - tokens)];
        }
      }
      EXPECT_EQ(place, static_cast<int64_t>(chosen.size()));
      ASSERT_EQ(groups.places().size(), chosen.size());
      std::set<int64_t> used(groups.places().begin(), groups.places().end());
      EXPECT_EQ(used.size(), chosen.size());
      for (std::size_t pair = 0; pair < chosen.size(); ++pair) {
        const auto at = static_cast<std::size_t>(groups.places()[pair]);
        EXPECT_EQ(owner[at], chosen[pair]);
        EXPECT_EQ(token[at], static_cast<int64_t>(pair) / top_k);
      }
      if (tokens == 1) {
        EXPECT_TRUE(groups.picked().empty());  // one token needs no copy
      }
    }
  }
}

}  // namespace
}  // namespace jang
