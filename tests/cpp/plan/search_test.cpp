// The search alone: hulls, budgets, and how near the best of all combinations it comes.
#include "plan/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

namespace jang {
namespace {

std::vector<SearchItem> random_items(std::mt19937& random, std::size_t count, std::size_t most) {
  std::vector<SearchItem> items(count);
  for (SearchItem& item : items) {
    const double scale = std::exp(std::normal_distribution<double>(0, 1.5)(random));
    const uint64_t weights = std::uniform_int_distribution<uint64_t>(1, 400)(random);
    const std::size_t choices = std::uniform_int_distribution<std::size_t>(1, most)(random);
    for (std::size_t i = 0; i < choices; ++i) {
      const uint64_t bytes = std::uniform_int_distribution<uint64_t>(1, 12)(random) * weights;
      const double noise = std::uniform_real_distribution<double>(0.5, 2)(random);
      item.choices.push_back(
          {bytes, scale * noise *
                      std::pow(0.25, static_cast<double>(bytes) / static_cast<double>(weights))});
    }
  }
  return items;
}

uint64_t extreme_bytes(const std::vector<SearchItem>& items, bool most) {
  uint64_t total = 0;
  for (const SearchItem& item : items) {
    const auto [low, high] =
        std::minmax_element(item.choices.begin(), item.choices.end(),
                            [](const Choice& a, const Choice& b) { return a.bytes < b.bytes; });
    total += most ? high->bytes : low->bytes;
  }
  return total;
}

/// Least loss of all combinations within `budget`.
double exhaustive(const std::vector<SearchItem>& items, uint64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  const std::function<void(std::size_t, uint64_t, double)> visit =
      [&](std::size_t item, uint64_t bytes, double loss) {
        if (bytes > budget || loss >= best) return;
        if (item == items.size()) {
          best = loss;
          return;
        }
        for (const Choice& choice : items[item].choices) {
          visit(item + 1, bytes + choice.bytes, loss + choice.loss);
        }
      };
  visit(0, 0, 0);
  return best;
}

TEST(Hull, KeepsCornersOnly) {
  const std::vector<Choice> choices = {{10, 8.0}, {20, 4.0},  {15, 7.0}, {30, 3.0}, {20, 5.0},
                                       {40, 3.5}, {25, 3.75}, {30, 2.0}, {10, 9.0}};
  // (15, 7) lies above the line from (10, 8) to (20, 4); (25, 3.75) above that to (30, 2).
  EXPECT_EQ(lower_hull(choices), (std::vector<uint32_t>{0, 1, 7}));
  EXPECT_EQ(lower_hull(std::vector<Choice>{{5, 1.0}}), std::vector<uint32_t>{0});
  // equal losses: fewer bytes; on a line the corner between is dropped
  EXPECT_EQ(lower_hull(std::vector<Choice>{{5, 1.0}, {4, 1.0}}), std::vector<uint32_t>{1});
  EXPECT_EQ(lower_hull(std::vector<Choice>{{1, 3.0}, {2, 2.0}, {3, 1.0}}),
            (std::vector<uint32_t>{0, 2}));
}

TEST(Hull, NothingLiesBelowIt) {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    const std::vector<Choice> choices = random_items(random, 1, 12)[0].choices;
    const std::vector<uint32_t> hull = lower_hull(choices);
    for (std::size_t i = 1; i < hull.size(); ++i) {
      const Choice &a = choices[hull[i - 1]], &b = choices[hull[i]];
      ASSERT_LT(a.bytes, b.bytes);
      ASSERT_GT(a.loss, b.loss);
      for (const Choice& c : choices) {
        const double along = static_cast<double>(c.bytes) - static_cast<double>(a.bytes);
        const double line =
            a.loss + along * (b.loss - a.loss) / static_cast<double>(b.bytes - a.bytes);
        ASSERT_GE(c.loss, line - 1e-12);
      }
    }
  }
}

TEST(Search, ComesNearTheBestOfAllCombinations) {
  std::mt19937 random(11);
  int exact = 0, rounds = 0;
  double worst = 1;
  for (int round = 0; round < 400; ++round) {
    const auto items = random_items(random, 2 + static_cast<std::size_t>(round) % 6, 6);
    const uint64_t low = extreme_bytes(items, false), high = extreme_bytes(items, true);
    const uint64_t budget = std::uniform_int_distribution<uint64_t>(low, high)(random);
    const Selection found = search_choices(items, budget);
    const double best = exhaustive(items, budget);
    ASSERT_LE(found.bytes, budget);
    ASSERT_GE(found.loss, best * (1 - 1e-12));
    exact += found.loss <= best * (1 + 1e-12);
    worst = std::max(worst, found.loss / best);
    ++rounds;
  }
  EXPECT_GT(exact, rounds * 9 / 10);
  EXPECT_LT(worst, 1.5);
}

TEST(Search, ManyItemsReachTheBoundOfTheRelaxation) {
  std::mt19937 random(13);
  for (int round = 0; round < 20; ++round) {
    const auto items = random_items(random, 200, 8);
    const uint64_t low = extreme_bytes(items, false), high = extreme_bytes(items, true);
    const uint64_t budget = low + (high - low) * static_cast<uint64_t>(round + 1) / 30;
    const Selection found = search_choices(items, budget);
    ASSERT_LE(found.bytes, budget);
    // Any multiplier gives a lower bound of the least loss: min sum(loss + mu * bytes) - mu *
    // budget.
    double bound = 0;
    for (double mu = 1e-9; mu < 10; mu *= 1.05) {
      double value = -mu * static_cast<double>(budget);
      for (const SearchItem& item : items) {
        double least = std::numeric_limits<double>::infinity();
        for (const Choice& c : item.choices) {
          least = std::min(least, c.loss + mu * static_cast<double>(c.bytes));
        }
        value += least;
      }
      bound = std::max(bound, value);
    }
    EXPECT_LT(found.loss, bound * 1.04) << round;
  }
}

TEST(Search, NeverOverBudgetAndTheSameTwice) {
  std::mt19937 random(17);
  for (int round = 0; round < 3000; ++round) {
    const auto items = random_items(random, static_cast<std::size_t>(round) % 12, 9);
    const uint64_t low = extreme_bytes(items, false), high = extreme_bytes(items, true);
    const uint64_t budget = std::uniform_int_distribution<uint64_t>(low, high + 10)(random);
    const Selection found = search_choices(items, budget);
    ASSERT_LE(found.bytes, budget);
    uint64_t bytes = 0;
    double loss = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      bytes += items[i].choices[found.choices[i]].bytes;
      loss += items[i].choices[found.choices[i]].loss;
    }
    ASSERT_EQ(bytes, found.bytes);
    ASSERT_DOUBLE_EQ(loss, found.loss);
    ASSERT_EQ(search_choices(items, budget).choices, found.choices);
  }
}

TEST(Search, ABudgetBelowEverythingTakesTheCheapest) {
  const std::vector<SearchItem> items = {{{{8, 1.0}, {4, 2.0}}}, {{{6, 1.0}}}};
  const Selection found = search_choices(items, 3);
  EXPECT_EQ(found.choices, (std::vector<uint32_t>{1, 0}));
  EXPECT_EQ(found.bytes, 10u);
}

TEST(Search, UsesChoicesOffTheHullForTheRemainder) {
  // The hull of the first is 10 -> 30; only the 15 fits what the second leaves.
  const std::vector<SearchItem> items = {{{{10, 9.0}, {15, 8.9}, {30, 1.0}}}, {{{20, 1.0}}}};
  const Selection found = search_choices(items, 36);
  EXPECT_EQ(found.choices[0], 1u);
  EXPECT_EQ(found.bytes, 35u);
}

}  // namespace
}  // namespace jang
