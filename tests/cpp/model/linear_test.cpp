// Jobs on rows of their own against the same rows in an input of their own, in both precisions, and
// the promise that a set's finish sees all that its jobs wrote.
#include "model/linear.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>

#include "quant/active_kernels.h"

namespace jang {
namespace {

struct Packed {
  std::vector<uint8_t> codes, scales, biases;
  LinearWeight weight;

  Packed(int64_t rows, int64_t columns, int bits, int group, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    codes.resize(static_cast<std::size_t>(rows * columns / 8 * bits));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
    const auto groups = static_cast<std::size_t>(rows * columns / group);
    for (std::vector<uint8_t>* part : {&scales, &biases}) {
      std::vector<float> values(groups);
      for (float& value : values) value = 0.1f * normal(random);
      part->resize(groups * 4);
      std::memcpy(part->data(), values.data(), part->size());
    }
    weight.rows = rows;
    weight.columns = columns;
    weight.matrix =
        kernels::AffineMatrix{codes.data(), scales.data(), biases.data(), rows,
                              columns,      bits,          group,         kernels::FloatType::kF32};
  }
};

std::vector<float> random_rows(int64_t rows, int64_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(rows * columns));
  for (float& value : x) value = normal(random);
  return x;
}

constexpr int64_t kColumns = 320, kRows = 70;

TEST(Linear, JobsOnRowsOfTheirOwn) {
  const Packed four(kRows, kColumns, 4, 64, 1), three(kRows, kColumns, 3, 32, 2);
  const std::vector<float> x = random_rows(9, kColumns, 3);
  const std::vector<int32_t> picked = {8, 2, 2, 5, 0, 7, 1};
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      LinearRunner runner(pool, precision);
      LinearInput input(pool, precision);
      input.set(x.data(), 9, kColumns, picked);
      input.prepare(four.weight);
      input.prepare(three.weight);
      // Rows 3 and 4 as they lie, then two runs of picked ones, on different weights.
      std::vector<float> a(2 * kRows), b(5 * kRows), c(2 * kRows);
      const LinearJob jobs[] = {{&four.weight, a.data(), kRows, 3, 2},
                                {&three.weight, b.data(), kRows, 9, 5},
                                {&four.weight, c.data(), kRows, 14, 2}};
      runner.run(jobs, input);
      const auto alone = [&](const Packed& packed, const std::vector<int32_t>& rows) {
        std::vector<float> copies, out(rows.size() * kRows);
        for (const int32_t row : rows)
          copies.insert(copies.end(), x.begin() + row * kColumns, x.begin() + (row + 1) * kColumns);
        const LinearJob job{&packed.weight, out.data(), kRows};
        EXPECT_TRUE(runner.run({&job, 1}, copies.data(), static_cast<int64_t>(rows.size())));
        return out;
      };
      EXPECT_EQ(a, alone(four, {3, 4}));
      EXPECT_EQ(b, alone(three, {8, 2, 2, 5, 0}));
      EXPECT_EQ(c, alone(four, {7, 1}));
    }
  }
}

TEST(Linear, RowsThatComeLater) {
  const Packed first(128, kColumns, 4, 64, 4), second(kRows, 128, 5, 32, 5);
  const std::vector<float> x = random_rows(6, kColumns, 6);
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    for (const int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      LinearRunner runner(pool, precision);
      std::vector<float> inner(6 * 128), inner_alone(6 * 128);
      std::vector<float> out(6 * kRows), out_alone(6 * kRows);
      LinearInput input(pool, precision), later(pool, precision);
      input.set(x.data(), 6, kColumns);
      input.prepare(first.weight);
      later.set(inner.data(), 6, 128);
      later.reserve(second.weight);
      std::vector<LinearJob> jobs;
      for (int64_t set = 0; set < 3; ++set)
        jobs.push_back({&first.weight, inner.data() + set * 2 * 128, 128, 2 * set, 2, set});
      std::atomic<int> finished[3] = {};
      runner.run(jobs, input, [&](int64_t set) {
        ++finished[set];
        for (int64_t i = 2 * set * 128; i < (2 * set + 2) * 128; ++i)
          inner[static_cast<std::size_t>(i)] += 1.0f;
        later.complete(2 * set, 2);
      });
      for (const auto& count : finished) EXPECT_EQ(count.load(), 1);
      const LinearJob down{&second.weight, out.data(), kRows};
      runner.run({&down, 1}, later);

      for (int64_t row = 0; row < 6; row += 2) {
        const LinearJob job{&first.weight, inner_alone.data() + row * 128, 128};
        ASSERT_TRUE(runner.run({&job, 1}, x.data() + row * kColumns, 2));
      }
      for (float& value : inner_alone) value += 1.0f;
      EXPECT_EQ(inner, inner_alone);
      const LinearJob job{&second.weight, out_alone.data(), kRows};
      ASSERT_TRUE(runner.run({&job, 1}, inner_alone.data(), 6));
      EXPECT_EQ(out, out_alone);
    }
  }
}

// Many sets of unlike sizes over more threads than cores: finish comes once a set, after its jobs.
TEST(Linear, SetsAreFinishedOnceAndWhole) {
  const Packed packed(200, kColumns, 2, 32, 7);
  const std::vector<float> x = random_rows(40, kColumns, 8);
  ThreadPool pool(5);
  LinearRunner runner(pool, Precision::kFast);
  for (int round = 0; round < 30; ++round) {
    std::vector<float> out(2 * 40 * 200, -1e30f);
    std::vector<LinearJob> jobs;
    std::vector<std::pair<int64_t, int64_t>> sets;  // first row and rows
    for (int64_t row = 0, rows = 9; row < 40; row += rows, rows = std::max<int64_t>(1, rows - 1)) {
      rows = std::min(rows, 40 - row);
      const auto set = static_cast<int64_t>(sets.size());
      for (const int64_t half : {0, 1}) {
        jobs.push_back({&packed.weight, out.data() + (half * 40 + row) * 200, 200, row, rows, set});
      }
      sets.emplace_back(row, rows);
    }
    std::vector<std::atomic<int>> finished(sets.size());
    std::atomic<int> unwritten{0};
    LinearInput input(pool, Precision::kFast);
    input.set(x.data(), 40, kColumns);
    input.prepare(packed.weight);
    runner.run(jobs, input, [&](int64_t set) {
      ++finished[static_cast<std::size_t>(set)];
      const auto [row, rows] = sets[static_cast<std::size_t>(set)];
      for (const int64_t half : {0, 1}) {
        for (int64_t i = (half * 40 + row) * 200; i < (half * 40 + row + rows) * 200; ++i)
          unwritten += out[static_cast<std::size_t>(i)] == -1e30f ? 1 : 0;
      }
    });
    EXPECT_EQ(unwritten.load(), 0);
    for (const auto& count : finished) EXPECT_EQ(count.load(), 1);
  }
}

TEST(Linear, RoutersAreExactInFastPrecision) {
  const Packed packed(16, kColumns, 8, 64, 9);
  const std::vector<float> x = random_rows(3, kColumns, 10);
  ThreadPool pool(2);
  std::vector<float> exact(48), fast(48), rounded(48);
  LinearRunner runner(pool, Precision::kFast);
  const LinearJob job{&packed.weight, fast.data(), 16};
  ASSERT_TRUE(runner.run_exact({&job, 1}, x.data(), 3));
  const LinearJob plain{&packed.weight, exact.data(), 16};
  ASSERT_TRUE(LinearRunner(pool, Precision::kExact).run({&plain, 1}, x.data(), 3));
  EXPECT_EQ(fast, exact);
  const LinearJob other{&packed.weight, rounded.data(), 16};
  ASSERT_TRUE(runner.run({&other, 1}, x.data(), 3));
  EXPECT_NE(rounded, exact);
}

}  // namespace
}  // namespace jang
