// What an expert's stack gets by the tokens that chose it, each slice against the same matrix
// quantized alone.
#include "calibrate/expert_solve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/error.h"
#include "calibrate/moments.h"
#include "model/routing.h"
#include "quant/active_kernels.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr int64_t kColumns = 64, kRows = 24, kTokens = 301;
constexpr AffineFormat kFormat{3, 32, DType::kF32};

MoeSpec spec_of(int64_t experts) {
  MoeSpec spec;
  spec.router.path = "router";
  spec.experts = experts;
  spec.top_k = 1;
  spec.gate = {"gate", experts, kRows, kColumns};
  spec.up = {"up", experts, kRows, kColumns};
  return spec;
}

std::vector<float> random_floats(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// Four experts: two with many tokens, one with ten, one that no token comes near.
struct Routed {
  MoeSpec spec = spec_of(4);
  ExpertRoutes routes{spec};
  ExpertMoments moments;

  explicit Routed(ThreadPool& pool)
      : moments(
            ExpertMoments::of_gate_and_up(spec, routes, kTokens, {uint64_t{1} << 30, {}}, pool)) {
    std::vector<float> x = random_floats(kTokens * kColumns, 1);
    for (std::size_t i = 0; i < x.size(); ++i) {  // columns that go together, of unlike size
      const std::size_t column = i % kColumns;
      if (column > 0) x[i] = 0.8f * x[i - 1] + 0.3f * x[i] * static_cast<float>(1 + column % 5);
    }
    std::vector<float> scores = random_floats(kTokens * 4, 2), weights(kTokens);
    std::vector<int64_t> chosen(kTokens);
    for (std::size_t t = 0; t < kTokens; ++t) {
      scores[4 * t + 2] = t % 30 == 1 && t < 300 ? 6.0f : -2.0f;
      scores[4 * t + 3] = -80.0f;
      choose_experts(spec, active_kernels(), &scores[4 * t], &chosen[t], &weights[t]);
    }
    EXPECT_FALSE(moments.on_routed_input(
        {spec, false, x.data(), kTokens, scores.data(), chosen, weights, chosen}));
  }
};

/// A stack of its own matrices, and its bytes.
struct Stack {
  std::vector<float> values;
  std::vector<std::byte> codes, scales, biases;
  Stack(int64_t experts, unsigned seed)
      : values(random_floats(experts * kRows * kColumns, seed)),
        codes(static_cast<std::size_t>(experts * kRows) * kFormat.row_bytes(kColumns)),
        scales(static_cast<std::size_t>(experts * kRows) * kFormat.row_groups(kColumns) * 4),
        biases(scales.size()) {}
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
  SourcePanel expert(int64_t number) const {
    return {reinterpret_cast<const std::byte*>(values.data() + number * kRows * kColumns),
            DType::kF32, kRows, kColumns};
  }
  ExpertStack view() {
    return {"stack", kFormat, [this](int64_t e) { return expert(e); }, panel()};
  }
  std::vector<std::byte> slice(int64_t number, int64_t experts) const {
    std::vector<std::byte> bytes;
    for (const auto* part : {&codes, &scales, &biases}) {
      const std::size_t size = part->size() / static_cast<std::size_t>(experts);
      const auto begin = part->begin() + number * static_cast<std::ptrdiff_t>(size);
      bytes.insert(bytes.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
    }
    return bytes;
  }
};

/// One matrix of a stack as a stack of its own.
Stack alone(const Stack& stack, int64_t number) {
  Stack one(1, 0);
  std::copy_n(stack.values.begin() + number * kRows * kColumns, kRows * kColumns,
              one.values.begin());
  return one;
}

double proxy(const Stack& one, const Hessian& h, ThreadPool& pool) {
  std::vector<float> found(one.values.size());
  dequantize_matrix(const_cast<Stack&>(one).panel(), kFormat, kRows, kColumns, found.data(), pool);
  double loss = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < kColumns; ++i) {
      for (int64_t j = 0; j < kColumns; ++j) {
        const auto error = [&](int64_t c) {
          const auto at = static_cast<std::size_t>(r * kColumns + c);
          return static_cast<double>(found[at]) - static_cast<double>(one.values[at]);
        };
        loss += error(i) * error(j) * h.values()[std::max(i, j) * kColumns + std::min(i, j)];
      }
    }
  }
  return loss / h.weight();
}

TEST(ExpertSolve, WaysFollowTokensAndColumns) {
  EXPECT_EQ(expert_way(0, 64), ExpertWay::kPlain);
  EXPECT_EQ(expert_way(1, 64), ExpertWay::kWeighted);
  EXPECT_EQ(expert_way(15, 64), ExpertWay::kWeighted);
  EXPECT_EQ(expert_way(16, 64), ExpertWay::kSolved);
  EXPECT_EQ(expert_way(1, 4), ExpertWay::kSolved);
  EXPECT_EQ(expert_way(1, 5), ExpertWay::kWeighted);
}

TEST(ExpertSolve, EachSliceIsItsExpertQuantizedAlone) {
  ThreadPool one(1), two(2);
  Routed routed(one);
  ASSERT_EQ(routed.routes.chosen(2), 10);
  ASSERT_EQ(routed.routes.chosen(3), 0);
  ASSERT_GT(routed.routes.chosen(0), 64);
  Stack gate(4, 3), up(4, 4);
  const std::vector<ExpertStack> stacks = {gate.view(), up.view()};
  int polls = 0;
  const auto records = solve_experts(
      routed.moments, stacks, {}, [&] { ++polls; }, one);
  EXPECT_EQ(polls, 4);
  ASSERT_EQ(records.size(), 2u);
  for (const SolverRecord& record : records) {
    EXPECT_EQ(record.solver, "gptq");
    EXPECT_EQ(record.experts->solved, 2u);
    EXPECT_EQ(record.experts->weighted, 1u);
    EXPECT_EQ(record.experts->plain, 1u);
    EXPECT_EQ(record.alpha, 0.0);
    EXPECT_GT(record.error, 0.0);
    EXPECT_LT(record.error, 0.1);
  }
  double lambda = 0, error = 0;
  for (Stack* stack : {&gate, &up}) {
    for (int64_t e = 0; e < 2; ++e) {
      Stack expected = alone(*stack, e), rounded = alone(*stack, e);
      Hessian h = routed.moments.shrunk(e, HessianKind::kFull);
      const SolveReport report =
          GptqSolver(h, {}, two).quantize(expected.expert(0), kFormat, {}, expected.panel(), two);
      EXPECT_EQ(stack->slice(e, 4), expected.slice(0, 1));
      quantize_matrix(rounded.expert(0), kFormat, Method::kMse, rounded.panel(), two);
      EXPECT_LT(proxy(expected, h, two), 0.6 * proxy(rounded, h, two));
      if (stack == &gate) lambda += report.lambda / 2, error += report.error / 2;
    }
    Stack weighted = alone(*stack, 2), plain = alone(*stack, 3);
    const auto weights = column_weights(routed.moments.shrunk(2, HessianKind::kDiagonal));
    quantize_matrix(weighted.expert(0), kFormat, Method::kMse, weighted.panel(), two, weights);
    quantize_matrix(plain.expert(0), kFormat, Method::kMse, plain.panel(), two);
    EXPECT_EQ(stack->slice(2, 4), weighted.slice(0, 1));
    EXPECT_EQ(stack->slice(3, 4), plain.slice(0, 1));
  }
  EXPECT_DOUBLE_EQ(records[0].lambda, lambda);
  EXPECT_DOUBLE_EQ(records[0].error, error);
}

TEST(ExpertSolve, ThreadsChangeNoByte) {
  ThreadPool one(1), two(2);
  Routed routed(one), again(two);
  Stack stack(4, 5), same(4, 5);
  const std::vector<ExpertStack> stacks = {stack.view()}, others = {same.view()};
  solve_experts(
      routed.moments, stacks, {}, [] {}, one);
  solve_experts(
      again.moments, others, {}, [] {}, two);
  EXPECT_EQ(stack.codes, same.codes);
  EXPECT_EQ(stack.scales, same.scales);
  EXPECT_EQ(stack.biases, same.biases);
}

TEST(ExpertSolve, ErrorsNameStackAndExpert) {
  ThreadPool pool(1);
  Routed routed(pool);
  Stack stack(4, 6);
  stack.values[static_cast<std::size_t>(2 * kRows * kColumns)] =
      std::numeric_limits<float>::infinity();
  const std::vector<ExpertStack> stacks = {stack.view()};
  try {
    solve_experts(
        routed.moments, stacks, {}, [] {}, pool);
    FAIL() << "solved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_EQ(error.tensor(), "stack");
    EXPECT_NE(error.message().find("expert 2"), std::string::npos);
  }
}

TEST(ExpertSolve, CoverageIsCounted) {
  std::vector<int64_t> tokens;
  for (int64_t i = 300; i > 0; --i) tokens.push_back(i);
  const ExpertCoverage coverage = expert_coverage(tokens);
  EXPECT_EQ(coverage.experts, 300u);
  EXPECT_EQ(coverage.least, 1u);
  EXPECT_EQ(coverage.low, 3u);
  EXPECT_EQ(coverage.median, 150u);
  const ExpertCoverage one = expert_coverage({7});
  EXPECT_EQ(one.least, 7u);
  EXPECT_EQ(one.low, 7u);
  EXPECT_EQ(one.median, 7u);
  EXPECT_EQ(coverage_warning(coverage, {900, 0, 0}), "");
  const std::string text = coverage_warning(coverage, {890, 7, 3});
  for (const char* part : {"10 of 900", "3 of them", "1 at least", "at most 3", "median 150"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

}  // namespace
}  // namespace jang
