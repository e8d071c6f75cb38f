#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"

namespace jang {
namespace {

std::vector<int> histogram(SamplerOptions options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    std::vector<float> copy = logits;
    ++counts[static_cast<std::size_t>(sampler.next(copy, {}))];
  }
  return counts;
}

std::vector<float> log_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(Sampler, GreedyTakesTheFirstLargestAndNeverNan) {
  Sampler sampler({});
  std::vector<float> ties = {1, 3, 3, 2};
  EXPECT_EQ(sampler.next(ties, {}), 1);
  std::vector<float> nans = {NAN, 1, NAN, 2};
  EXPECT_EQ(sampler.next(nans, {}), 3);
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  const std::vector<double> p = {0.5, 0.3, 0.15, 0.05};
  const int draws = 40000;
  const auto counts = histogram({.temperature = 1.0f, .seed = 7}, log_of(p), draws);
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double deviation = 5 * std::sqrt(draws * p[i] * (1 - p[i]));
    EXPECT_NEAR(counts[i], draws * p[i], deviation) << i;
  }
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  const auto logits = log_of({0.8, 0.2});
  const int draws = 20000;
  // p ~ p^(1/T): 0.8^2 / (0.8^2 + 0.2^2) = 0.941; 0.8^0.5 / (0.8^0.5 + 0.2^0.5) = 2/3.
  EXPECT_NEAR(histogram({.temperature = 0.5f}, logits, draws)[0], draws * 0.941, 200);
  EXPECT_NEAR(histogram({.temperature = 2.0f}, logits, draws)[0], draws * 2 / 3.0, 350);
}

TEST(Sampler, EachFilterCutsWhatItSays) {
  const auto logits = log_of({0.05, 0.5, 0.3, 0.15});
  const auto zeros = [&](SamplerOptions o) {
    o.temperature = 1.0f;
    std::vector<bool> out;
    for (const int c : histogram(o, logits, 4000)) out.push_back(c == 0);
    return out;
  };
  EXPECT_EQ(zeros({.top_k = 2}), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(zeros({.top_p = 0.79f}), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(zeros({.top_p = 0.9f}), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(zeros({.min_p = 0.4f}), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(zeros({.top_k = 100}), (std::vector<bool>{false, false, false, false}));
}

TEST(Sampler, RepetitionPenaltyLowersBothSigns) {
  Sampler sampler({.repetition_penalty = 2.0f, .repetition_window = 2});
  std::vector<float> logits = {3, 4, -1, 2.5f};
  const std::vector<int32_t> history = {0, 1, 2};  // 0 lies before the window
  EXPECT_EQ(sampler.next(logits, history), 0);
  EXPECT_EQ(logits, (std::vector<float>{3, 2, -2, 2.5f}));
}

TEST(Sampler, SameSeedSameTokens) {
  const auto logits = log_of({0.25, 0.25, 0.25, 0.25});
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1.0f, .seed = seed});
    std::vector<int32_t> tokens;
    for (int i = 0; i < 32; ++i) {
      auto copy = logits;
      tokens.push_back(sampler.next(copy, tokens));
    }
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, MaskedTokensAreNeverDrawn) {
  const float none = -std::numeric_limits<float>::infinity();
  const auto counts = histogram({.temperature = 1.0f}, {none, 0.0f, none, 0.0f}, 1000);
  EXPECT_EQ(counts[0], 0);
  EXPECT_EQ(counts[2], 0);
  EXPECT_GT(counts[1], 0);
  EXPECT_GT(counts[3], 0);
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const auto message = [](SamplerOptions o) -> std::string {
    try {
      Sampler sampler(o);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kArgument);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_NE(message({.temperature = -1}).find("temperature"), std::string::npos);
  EXPECT_NE(message({.temperature = NAN}).find("temperature"), std::string::npos);
  EXPECT_NE(message({.top_k = -1}).find("top_k"), std::string::npos);
  EXPECT_NE(message({.top_p = 0}).find("top_p"), std::string::npos);
  EXPECT_NE(message({.min_p = 1.5f}).find("min_p"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = 0}).find("repetition_penalty"), std::string::npos);
}

}  // namespace
}  // namespace jang
