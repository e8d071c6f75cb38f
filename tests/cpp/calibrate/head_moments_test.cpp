// Of a stack of heads each slice against the same matrix with moments of its own.
#include "calibrate/head_moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "calibrate/stored_matrix.h"

namespace jang {
namespace {

constexpr int64_t kHeads = 3, kRows = 20, kColumns = 64, kTokens = 90, kSequences = 9;
constexpr AffineFormat kFormat{3, 32, DType::kF16};

std::vector<float> random_floats(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// [heads][tokens][columns], each head's columns correlated in another way.
std::vector<float> inputs(unsigned seed) {
  std::vector<float> x = random_floats(kHeads * kTokens * kColumns, seed);
  for (std::size_t i = 1; i < x.size(); ++i) {
    if (i % kColumns != 0)
      x[i] += 0.3f * static_cast<float>(1 + i / (kTokens * kColumns)) * x[i - 1];
  }
  return x;
}

TEST(HeadMoments, EverySliceIsSolvedForItsOwnHead) {
  ThreadPool pool(2);
  const StackSpec stack{"embed", kHeads, kRows, kColumns};
  HeadMoments moments(stack, HessianKind::kFull, true, kSequences);
  std::vector<InputMoments> alone;
  for (int64_t h = 0; h < kHeads; ++h)
    alone.emplace_back(kColumns, HessianKind::kFull, true, kSequences);
  for (int64_t s = 0; s < kSequences; ++s) {
    const auto full = inputs(static_cast<unsigned>(s));
    auto quantized = inputs(static_cast<unsigned>(s));
    const auto noise = random_floats(kHeads * kTokens * kColumns, 50 + static_cast<unsigned>(s));
    for (std::size_t i = 0; i < noise.size(); ++i) quantized[i] += 0.1f * noise[i];
    moments.add(s, quantized.data(), full.data(), kTokens, pool);
    for (int64_t h = 0; h < kHeads; ++h) {
      const int64_t first = h * kTokens * kColumns;
      alone[static_cast<std::size_t>(h)].add(s, quantized.data() + first, full.data() + first,
                                             kTokens, pool);
    }
  }
  const LinearSums sums = moments.sums();
  ASSERT_EQ(sums.sum_x2.size(), static_cast<std::size_t>(kHeads * kColumns));
  for (int64_t h = 0; h < kHeads; ++h) {
    const Hessian& own = alone[static_cast<std::size_t>(h)].hessian();
    EXPECT_EQ(sums.count[static_cast<std::size_t>(h)], static_cast<int64_t>(own.tokens()));
    for (int64_t j = 0; j < kColumns; ++j)
      EXPECT_EQ(sums.sum_x2[static_cast<std::size_t>(h * kColumns + j)], own.diagonal(j));
  }

  const std::vector<float> weights = random_floats(kHeads * kRows * kColumns, 7);
  const auto read = [&](int64_t head) {
    return SourcePanel{reinterpret_cast<const std::byte*>(weights.data() + head * kRows * kColumns),
                       DType::kF32, kRows, kColumns};
  };
  StoredMatrix out(kFormat, kHeads * kRows, kColumns);
  int polled = 0;
  const SolverRecord record = moments.solve(
      kFormat, {}, read, out.panel(), [&] { ++polled; }, pool);
  EXPECT_EQ(polled, kHeads);
  EXPECT_EQ(record.solver, "gptq");
  double error = 0;
  for (int64_t h = 0; h < kHeads; ++h) {
    StoredMatrix own(kFormat, kRows, kColumns);
    const GptqSolver solver = alone[static_cast<std::size_t>(h)].solver(pool);
    error += solver.quantize(read(h), kFormat, {}, own.panel(), pool).error / kHeads;
    const AffinePanel slice = rows_of(out.panel(), kFormat, static_cast<uint64_t>(h * kRows),
                                      static_cast<uint64_t>(kColumns));
    EXPECT_TRUE(std::equal(own.codes.span().begin(), own.codes.span().end(), slice.codes)) << h;
    EXPECT_TRUE(std::equal(own.scales.span().begin(), own.scales.span().end(), slice.scales)) << h;
    EXPECT_TRUE(std::equal(own.biases.span().begin(), own.biases.span().end(), slice.biases)) << h;
  }
  EXPECT_DOUBLE_EQ(record.error, error);
  EXPECT_GT(record.error, 0.0);
}

}  // namespace
}  // namespace jang
