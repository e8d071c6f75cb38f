// Moments against sums in double over the same tokens: position 0 left out, heavy tokens capped,
// every eighth sequence held out.
#include "calibrate/moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace jang {
namespace {

constexpr int64_t kColumns = 40, kTokens = 33, kSequences = 9;

std::vector<float> random_rows(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<std::size_t>(kTokens * kColumns));
  for (float& value : rows) value = normal(random);
  for (int64_t i = 0; i < kColumns; ++i) {
    rows[static_cast<std::size_t>(i)] *= 1000.0f;               // position 0
    rows[static_cast<std::size_t>(7 * kColumns + i)] *= 50.0f;  // one to be capped
  }
  return rows;
}

TEST(Moments, EqualSumsInDouble) {
  ThreadPool one(1), two(2);
  InputMoments moments(kColumns, HessianKind::kFull, true, kSequences);
  InputMoments same(kColumns, HessianKind::kFull, true, kSequences);
  std::vector<double> h(kColumns * kColumns), c(kColumns * kColumns);
  double weight = 0, tokens = 0;
  for (int64_t s = 0; s < kSequences; ++s) {
    const auto quantized = random_rows(static_cast<unsigned>(s));
    const auto full = random_rows(100 + static_cast<unsigned>(s));
    moments.add(s, quantized.data(), full.data(), kTokens, one);
    same.add(s, quantized.data(), full.data(), kTokens, two);
    if (s == 7) continue;
    std::vector<double> norms;
    for (std::size_t t = 1; t < kTokens; ++t) {
      double sum = 0;
      for (std::size_t i = 0; i < kColumns; ++i)
        sum += std::pow(static_cast<double>(quantized[t * kColumns + i]), 2);
      norms.push_back(sum);
    }
    std::vector<double> sorted = norms;
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted[norms.size() / 2];
    ASSERT_GT(norms[6], 20 * median);
    for (std::size_t t = 1; t < kTokens; ++t) {
      const double r = std::min(1.0, 20 * median / norms[t - 1]);
      weight += r;
      tokens += 1;
      for (std::size_t i = 0; i < kColumns; ++i) {
        for (std::size_t j = 0; j < kColumns; ++j) {
          const auto xq = static_cast<double>(quantized[t * kColumns + j]);
          h[i * kColumns + j] += r * static_cast<double>(quantized[t * kColumns + i]) * xq;
          c[i * kColumns + j] += r * static_cast<double>(full[t * kColumns + i]) * xq;
        }
      }
    }
  }
  EXPECT_EQ(moments.hessian().tokens(), tokens);
  EXPECT_NEAR(moments.hessian().weight(), weight, 1e-5 * weight);
  const double scale = h[0];
  for (std::size_t i = 0; i < kColumns; ++i) {
    for (std::size_t j = 0; j < kColumns; ++j) {
      const std::size_t at = i * kColumns + j;
      if (j <= i) {
        EXPECT_NEAR(moments.hessian().values()[at], h[at], 1e-5 * scale);
        EXPECT_EQ(moments.hessian().values()[at], same.hessian().values()[at]);
      }
      EXPECT_NEAR(moments.cross()->values()[at], c[at], 1e-5 * scale);
      EXPECT_EQ(moments.cross()->values()[at], same.cross()->values()[at]);
    }
  }
}

TEST(Moments, AnIdentityOfTheMeanDiagonalIsAdded) {
  ThreadPool pool(1);
  InputMoments moments(kColumns, HessianKind::kFull, false, kSequences);
  const auto rows = random_rows(3);
  moments.add(0, rows.data(), nullptr, kTokens, pool);
  std::vector<double> before(kColumns);
  double mean = 0;
  for (int64_t i = 0; i < kColumns; ++i) {
    before[static_cast<std::size_t>(i)] = moments.hessian().diagonal(i);
    mean += moments.hessian().diagonal(i) / kColumns;
  }
  const double off = moments.hessian().values()[kColumns];
  moments.add_identity();
  for (int64_t i = 0; i < kColumns; ++i)
    EXPECT_NEAR(moments.hessian().diagonal(i), before[static_cast<std::size_t>(i)] + mean,
                1e-6 * mean);
  EXPECT_EQ(moments.hessian().values()[kColumns], off);
}

}  // namespace
}  // namespace jang
