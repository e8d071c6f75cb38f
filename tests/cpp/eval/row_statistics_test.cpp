// Statistics of rows against long double, and what they promise for equal, shifted and long rows.
#include "eval/row_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace jang {
namespace {

using Row = std::vector<float>;

Row random_row(std::size_t n, unsigned seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Row row(n);
  for (float& v : row) v = scale * normal(random);
  return row;
}

Row near(const Row& row, unsigned seed, float scale) {
  Row other = random_row(row.size(), seed, scale);
  for (std::size_t i = 0; i < row.size(); ++i) other[i] += row[i];
  return other;
}

struct Exact {
  long double kl = 0, squared_error = 0;
  std::vector<long double> log_reference, log_model;
};

std::vector<long double> log_softmax(const Row& row) {
  long double max = -std::numeric_limits<long double>::infinity(), sum = 0;
  for (const float v : row) max = std::max<long double>(max, v);
  for (const float v : row) sum += std::exp(static_cast<long double>(v) - max);
  std::vector<long double> logs;
  for (const float v : row) logs.push_back(static_cast<long double>(v) - max - std::log(sum));
  return logs;
}

Exact exact(const Row& reference, const Row& model) {
  Exact found;
  found.log_reference = log_softmax(reference);
  found.log_model = log_softmax(model);
  long double mean = 0;
  const auto n = static_cast<long double>(reference.size());
  for (std::size_t i = 0; i < reference.size(); ++i) {
    found.kl += std::exp(found.log_reference[i]) * (found.log_reference[i] - found.log_model[i]);
    mean += (static_cast<long double>(reference[i]) - static_cast<long double>(model[i])) / n;
  }
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const long double d =
        static_cast<long double>(reference[i]) - static_cast<long double>(model[i]) - mean;
    found.squared_error += d * d / n;
  }
  return found;
}

void expect_exact(const Row& reference, const Row& model) {
  const Exact expected = exact(reference, model);
  const RowNorm a = row_norm(reference), b = row_norm(model);
  const Divergence found = divergence(reference, a, model, b);
  // Five orders below the 1e-6 nats at which a report would show it; the sums cancel about 1e1.
  EXPECT_NEAR(found.kl, static_cast<double>(expected.kl), 1e-12 + 1e-12 * found.kl);
  EXPECT_NEAR(found.squared_error, static_cast<double>(expected.squared_error),
              1e-12 * found.squared_error);
  for (std::size_t i = 0; i < reference.size(); i += 1 + reference.size() / 50) {
    const auto index = static_cast<int64_t>(i);
    EXPECT_NEAR(log_probability(reference, a, index),
                static_cast<double>(expected.log_reference[i]), 1e-12);
    EXPECT_NEAR(log_probability(model, b, index), static_cast<double>(expected.log_model[i]),
                1e-12);
  }
}

TEST(RowStatistics, EqualLongDoubleAtEverySize) {
  for (std::size_t n = 1; n <= 40; ++n) {
    const Row reference = random_row(n, static_cast<unsigned>(n), 3);
    expect_exact(reference, near(reference, 100, 0.5f));
  }
  for (const std::size_t n : {4096u, 131071u}) {
    for (const float noise : {1e-3f, 0.1f, 3.0f}) {
      const Row reference = random_row(n, 5, 4);
      expect_exact(reference, near(reference, 6, noise));
    }
  }
}

TEST(RowStatistics, LargeLogitsAndFarTailsStayExact) {
  Row reference = random_row(1000, 7, 2), model = near(reference, 8, 0.2f);
  for (float& v : reference) v += 3000;
  expect_exact(reference, model);  // a common offset changes no distribution
  reference[17] = 5000;            // one entry has all the probability
  model[17] = 2000;
  expect_exact(reference, model);
  reference[3] = -1e30f;  // as a masked entry would be
  const RowNorm a = row_norm(reference), b = row_norm(model);
  EXPECT_TRUE(std::isfinite(divergence(reference, a, model, b).kl));
}

TEST(RowStatistics, EqualRowsGiveExactlyZero) {
  const Row row = random_row(777, 9, 5);
  const RowNorm norm = row_norm(row);
  const Divergence found = divergence(row, norm, row, norm);
  EXPECT_EQ(found.kl, 0);
  EXPECT_EQ(found.squared_error, 0);
}

TEST(RowStatistics, AShiftOfAllLogitsIsNoError) {
  const Row row(333, 1.5f), shifted(333, 2.75f);
  const Divergence found = divergence(row, row_norm(row), shifted, row_norm(shifted));
  EXPECT_EQ(found.squared_error, 0);
  EXPECT_LT(found.kl, 1e-15);
}

TEST(RowStatistics, TheTopIsTheFirstOfTheLargest) {
  Row row = random_row(100, 10, 1);
  row[41] = row[97] = row[63] = 9;
  EXPECT_EQ(row_norm(row).top, 41);
  EXPECT_EQ(row_norm(row).max, 9.0f);
}

TEST(RowStatistics, NonFiniteLogitsShow) {
  const Row good = random_row(50, 11, 1);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const std::size_t at : {0u, 13u, 49u}) {
      Row row = good;
      row[at] = bad;
      EXPECT_FALSE(std::isfinite(row_norm(row).log_sum)) << bad << " at " << at;
    }
  }
}

}  // namespace
}  // namespace jang
