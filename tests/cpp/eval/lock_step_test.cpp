// Models side by side against their own whole forward passes: any size of pieces, any number of
// threads and any first scored position give the same numbers; options are scored as sums.
#include "eval/lock_step.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "eval/option_scores.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

std::vector<int32_t> some_tokens(int count, int step) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * step + 11) % 67);
  return tokens;
}

std::vector<float> logits_of(Model& model, std::span<const int32_t> tokens) {
  KvCache cache = model.new_cache();
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(model.spec().vocabulary));
  model.forward(tokens, cache, Model::Logits::kAll, logits.data());
  return logits;
}

class LockStepTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("jang_eval_test_" + std::to_string(getpid()));
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::unique_ptr<Model> model(unsigned seed, int threads = 2, int64_t vocabulary = 67) {
    TinyModel tiny;
    tiny.vocabulary = vocabulary;
    tiny.fill(seed);
    const auto directory = root_ / std::to_string(made_++);
    std::filesystem::create_directories(root_);
    tiny.write(directory);
    return Model::load(directory, {.threads = threads, .precision = Precision::kExact});
  }

  std::filesystem::path root_;
  int made_ = 0;
};

void expect_equal(const WindowStatistics& a, const WindowStatistics& b) {
  EXPECT_EQ(a.nll_reference, b.nll_reference);
  ASSERT_EQ(a.models.size(), b.models.size());
  for (std::size_t m = 0; m < a.models.size(); ++m) {
    EXPECT_EQ(a.models[m].kl, b.models[m].kl);
    EXPECT_EQ(a.models[m].nll, b.models[m].nll);
    EXPECT_EQ(a.models[m].squared_error, b.models[m].squared_error);
    EXPECT_EQ(a.models[m].same_top, b.models[m].same_top);
  }
}

TEST_F(LockStepTest, EachPositionIsThatOfWholePasses) {
  const auto reference = model(1), first = model(2), second = model(3);
  const auto tokens = some_tokens(90, 29), targets = some_tokens(90, 31);
  LockStep pair(*reference, {first.get(), second.get()}, 0, 1 << 20);
  const WindowStatistics found = pair.run(tokens, targets, 0);
  ASSERT_EQ(found.models.size(), 2u);

  const std::size_t n = 67;
  const auto a = logits_of(*reference, tokens);
  Model* const models[] = {first.get(), second.get()};
  for (std::size_t m = 0; m < 2; ++m) {
    const auto b = logits_of(*models[m], tokens);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto row_a = std::span(a).subspan(t * n, n), row_b = std::span(b).subspan(t * n, n);
      const RowNorm norm_a = row_norm(row_a), norm_b = row_norm(row_b);
      const Divergence expected = divergence(row_a, norm_a, row_b, norm_b);
      EXPECT_EQ(found.models[m].kl[t], expected.kl);
      EXPECT_EQ(found.models[m].squared_error[t], expected.squared_error);
      EXPECT_EQ(found.models[m].nll[t], -log_probability(row_b, norm_b, targets[t]));
      EXPECT_EQ(found.nll_reference[t], -log_probability(row_a, norm_a, targets[t]));
      EXPECT_EQ(found.models[m].same_top[t], norm_a.top == norm_b.top ? 1 : 0);
    }
  }
}

TEST_F(LockStepTest, PiecesThreadsAndSkippedPositionsChangeNothing) {
  const auto reference = model(1), other = model(2);
  const auto tokens = some_tokens(600, 29), targets = some_tokens(600, 31);
  LockStep whole(*reference, {other.get()}, 0, 1 << 20);
  const WindowStatistics expected = whole.run(tokens, targets, 0);
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{2 * 4 * 67 * 10}, uint64_t{2 * 4 * 67 * 300}}) {
    LockStep pieces(*reference, {other.get()}, 0, bytes);
    EXPECT_EQ(pieces.piece_rows(), bytes == 1 ? 1 : bytes < 10000 ? 10 : 256);
    expect_equal(pieces.run(tokens, targets, 0), expected);
  }
  const auto single_reference = model(1, 1), single = model(2, 1);
  LockStep alone(*single_reference, {single.get()}, 0, 1 << 20);
  expect_equal(alone.run(tokens, targets, 0), expected);

  const WindowStatistics half = whole.run(tokens, targets, 300);
  ASSERT_EQ(half.nll_reference.size(), 300u);
  for (std::size_t i = 0; i < 300; ++i) {
    EXPECT_EQ(half.models[0].kl[i], expected.models[0].kl[300 + i]);
    EXPECT_EQ(half.nll_reference[i], expected.nll_reference[300 + i]);
  }
}

TEST_F(LockStepTest, AnEqualModelHasNoDivergence) {
  const auto reference = model(4), same = model(4);
  const auto tokens = some_tokens(50, 7);
  LockStep pair(*reference, {same.get()}, 0, 1 << 20);
  const WindowStatistics found = pair.run(tokens, tokens, 0);
  EXPECT_EQ(found.models[0].kl, std::vector<double>(50, 0.0));
  EXPECT_EQ(found.models[0].squared_error, std::vector<double>(50, 0.0));
  EXPECT_EQ(found.models[0].nll, found.nll_reference);
  EXPECT_EQ(found.models[0].same_top, std::vector<uint8_t>(50, 1));
}

TEST_F(LockStepTest, RowsOfDifferentLengthAreComparedOverTheirCommonPart) {
  const auto reference = model(1), longer = model(2, 2, 80);
  const auto tokens = some_tokens(20, 5);
  EXPECT_THROW(LockStep(*reference, {longer.get()}, 0, 1 << 20), Error);
  EXPECT_THROW(LockStep(*reference, {longer.get()}, 68, 1 << 20), Error);
  LockStep pair(*reference, {longer.get()}, 67, 1 << 20);
  const WindowStatistics found = pair.run(tokens, tokens, 0);
  const auto a = logits_of(*reference, tokens), b = logits_of(*longer, tokens);
  for (std::size_t t = 0; t < 20; ++t) {
    const auto row_a = std::span(a).subspan(t * 67, 67), row_b = std::span(b).subspan(t * 80, 67);
    EXPECT_EQ(found.models[0].kl[t], divergence(row_a, row_norm(row_a), row_b, row_norm(row_b)).kl);
  }
}

TEST_F(LockStepTest, WhatCannotBeComparedIsRefused) {
  const auto reference = model(1), other = model(2);
  EXPECT_THROW(LockStep(*reference, {}, 0, 1 << 20), Error);
  EXPECT_THROW(LockStep(*reference, {reference.get()}, 0, 1 << 20), Error);
  EXPECT_THROW(LockStep(*reference, {other.get(), other.get()}, 0, 1 << 20), Error);
  LockStep pair(*reference, {other.get()}, 60, 1 << 20);
  const std::vector<int32_t> fine{1, 2, 3}, outside{1, 60, 3}, negative{1, -1, 3}, two{1, 2};
  EXPECT_THROW(pair.run(outside, fine, 0), Error);
  EXPECT_THROW(pair.run(fine, outside, 0), Error);
  EXPECT_THROW(pair.run(fine, negative, 0), Error);
  EXPECT_THROW(pair.run(fine, two, 0), Error);
  EXPECT_THROW(pair.run(fine, fine, 3), Error);
  EXPECT_THROW(pair.run({}, {}, 0), Error);
}

TEST_F(LockStepTest, ReportsProgressAndStops) {
  const auto reference = model(1), other = model(2);
  const auto tokens = some_tokens(40, 5);
  LockStep pair(*reference, {other.get()}, 0, 2 * 4 * 67 * 16);
  std::vector<uint64_t> seen;
  JobCallbacks callbacks;
  callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view) {
    EXPECT_EQ(total, 80u);
    EXPECT_TRUE(seen.empty() || done > seen.back());
    seen.push_back(done);
  };
  pair.run(tokens, tokens, 8, callbacks);
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back(), 80u);

  callbacks.progress = nullptr;
  callbacks.cancel = [] { throw std::runtime_error("stop"); };
  EXPECT_THROW(pair.run(tokens, tokens, 0, callbacks), std::runtime_error);
  callbacks.cancel = nullptr;
  EXPECT_EQ(pair.run(tokens, tokens, 0, callbacks).nll_reference.size(), 40u);
}

TEST_F(LockStepTest, OptionsAreSumsOfLogProbabilities) {
  const auto one = model(5);
  OptionScorer scorer(*one);
  const auto long_option = some_tokens(75, 13);
  const std::vector<std::vector<int32_t>> options{{3}, {3, 9, 27}, {60}, long_option};
  // The second context begins like the first, the third does not, the fourth is the start of it.
  const auto base = some_tokens(30, 29);
  auto second = base, third = some_tokens(12, 7);
  second.resize(20);
  second.push_back(5);
  const std::vector<int32_t> fourth(third.begin(), third.begin() + 6);
  for (const auto& context : {base, second, base, third, fourth, fourth}) {
    std::vector<std::span<const int32_t>> spans(options.begin(), options.end());
    const auto found = scorer.score(context, spans);
    ASSERT_EQ(found.size(), options.size());
    for (std::size_t o = 0; o < options.size(); ++o) {
      auto whole = context;
      whole.insert(whole.end(), options[o].begin(), options[o].end());
      const auto logits = logits_of(*one, whole);
      double expected = 0;
      for (std::size_t t = context.size(); t < whole.size(); ++t) {
        const auto row = std::span<const float>(logits).subspan((t - 1) * 67, 67);
        expected += log_probability(row, row_norm(row), whole[t]);
      }
      EXPECT_NEAR(found[o], expected, 1e-12 * std::abs(expected));
    }
  }
  const std::vector<int32_t> none, outside{67};
  const std::span<const int32_t> bad[] = {none}, far[] = {outside};
  EXPECT_THROW(scorer.score(base, bad), Error);
  EXPECT_THROW(scorer.score(base, far), Error);
  EXPECT_THROW(scorer.score(none, far), Error);
}

}  // namespace
}  // namespace jang
