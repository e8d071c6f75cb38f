// Second moments and their factor: sums against double, weights, merging, threads, refusals; the
// factorization against its definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "quant/cholesky.h"
#include "solver_data.h"

namespace jang {
namespace {

std::vector<float> inputs(int64_t tokens, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * columns));
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(random) * (i % 7 == 3 ? 5.0f : 1.0f) + 0.3f;
  return x;
}

TEST(Hessian, SumsAreThoseOfDouble) {
  constexpr int64_t kTokens = 1100, kColumns = 203, kStride = 210;
  const std::vector<float> x = inputs(kTokens, kStride, 1);
  std::vector<float> weights(kTokens);
  for (size_t t = 0; t < weights.size(); ++t) weights[t] = 0.25f * static_cast<float>(t % 5);
  ThreadPool pool(2);
  for (const bool weighted : {false, true}) {
    const std::span<const float> r =
        weighted ? std::span<const float>(weights) : std::span<const float>();
    Hessian h(kColumns, HessianKind::kFull), diagonal(kColumns, HessianKind::kDiagonal);
    h.add(x.data(), kStride, kTokens, r, pool);
    diagonal.add(x.data(), kStride, kTokens, r, pool);
    h.symmetrize(pool);
    double weight = 0.0;
    for (const float w : weights) weight += static_cast<double>(w);
    EXPECT_EQ(h.tokens(), kTokens);
    EXPECT_DOUBLE_EQ(h.weight(), weighted ? weight : kTokens);
    EXPECT_EQ(diagonal.weight(), h.weight());
    for (int64_t i = 0; i < kColumns; i += 3) {
      for (int64_t j = 0; j < kColumns; ++j) {
        double sum = 0.0, magnitude = 0.0;
        for (int64_t t = 0; t < kTokens; ++t) {
          const double product =
              static_cast<double>(x[static_cast<size_t>(t * kStride + i)]) *
              static_cast<double>(x[static_cast<size_t>(t * kStride + j)]) *
              (weighted ? static_cast<double>(weights[static_cast<size_t>(t)]) : 1.0);
          sum += product;
          magnitude += std::fabs(product);
        }
        ASSERT_NEAR(h.values()[i * kColumns + j], sum, 2e-6 * magnitude) << i << ", " << j;
        if (i == j) {
          ASSERT_NEAR(diagonal.diagonal(i), sum, 1e-12 * magnitude);
          ASSERT_EQ(h.diagonal(i), h.values()[i * kColumns + i]);
        }
      }
    }
  }
}

TEST(Hessian, ThreadsDoNotMatterAndPartsMerge) {
  constexpr int64_t kTokens = 1024, kColumns = 400;
  const std::vector<float> x = inputs(kTokens, kColumns, 2);
  std::optional<Hessian> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    Hessian h(kColumns, HessianKind::kFull);
    h.add(x.data(), kColumns, kTokens, {}, pool);
    if (first) {
      EXPECT_TRUE(std::equal(h.values(), h.values() + kColumns * kColumns, first->values()))
          << threads;
    } else {
      first = std::move(h);
    }
  }
  ThreadPool pool(2);
  Hessian parts(kColumns, HessianKind::kFull), rest(kColumns, HessianKind::kFull);
  parts.add(x.data(), kColumns, 512, {}, pool);
  rest.add(x.data() + 512 * kColumns, kColumns, 512, {}, pool);
  parts.merge(rest);
  EXPECT_TRUE(std::equal(parts.values(), parts.values() + kColumns * kColumns, first->values()));
  EXPECT_EQ(parts.tokens(), first->tokens());
  Hessian twice = Hessian(kColumns, HessianKind::kDiagonal);
  twice.merge(parts, 2.0);
  EXPECT_EQ(twice.diagonal(17), 2.0 * parts.diagonal(17));
  EXPECT_EQ(twice.weight(), 2.0 * parts.weight());
}

TEST(Hessian, CrossMomentsKeepTheirSides) {
  constexpr int64_t kTokens = 700, kColumns = 197;
  const std::vector<float> x = inputs(kTokens, kColumns, 3), y = inputs(kTokens, kColumns, 4);
  ThreadPool pool(2);
  CrossMoment cross(kColumns);
  cross.add(x.data(), y.data(), kColumns, kTokens, {}, pool);
  for (int64_t i = 0; i < kColumns; i += 5) {
    for (int64_t j = 0; j < kColumns; j += 3) {
      double sum = 0.0, magnitude = 0.0;
      for (int64_t t = 0; t < kTokens; ++t) {
        const double product = static_cast<double>(x[static_cast<size_t>(t * kColumns + i)]) *
                               static_cast<double>(y[static_cast<size_t>(t * kColumns + j)]);
        sum += product;
        magnitude += std::fabs(product);
      }
      ASSERT_NEAR(cross.values()[i * kColumns + j], sum, 2e-6 * magnitude) << i << ", " << j;
    }
  }
}

TEST(Hessian, TokensAreCappedAtTwentyMedians) {
  std::vector<float> norms(101, 2.0f);
  norms[7] = 39.0f;
  norms[8] = 4000.0f;
  norms[9] = 0.0f;
  const std::vector<float> weights = capped_token_weights(norms);
  EXPECT_EQ(weights[7], 1.0f);
  EXPECT_FLOAT_EQ(weights[8] * norms[8], 40.0f);
  EXPECT_EQ(weights[9], 1.0f);
  EXPECT_TRUE(capped_token_weights({}).empty());
}

TEST(Hessian, DampingFollowsColumnsOverTokens) {
  EXPECT_EQ(damping_rule(4096, 1e9), 0.01);
  EXPECT_DOUBLE_EQ(damping_rule(4096, 4096), 0.15);
  EXPECT_EQ(damping_rule(4096, 10), 0.5);
}

TEST(Hessian, RefusesImpossibleSums) {
  const std::vector<double> values(16, 1.0);
  const auto code = [](const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kCancelled;
  };
  const auto from = [&](int64_t n, double tokens, double weight) {
    return [=, &values] {
      static_cast<void>(Hessian::from_sums(n, HessianKind::kFull, values, tokens, weight));
    };
  };
  EXPECT_EQ(code(from(4, 1, 1)), ErrorCode::kCancelled);
  EXPECT_EQ(code(from(5, 1, 1)), ErrorCode::kArgument);
  EXPECT_EQ(code(from(4, 0, 1)), ErrorCode::kArgument);
  EXPECT_EQ(code(from(4, 1, std::numeric_limits<double>::infinity())), ErrorCode::kArgument);
  EXPECT_EQ(code([] { Hessian(int64_t{1} << 40, HessianKind::kFull); }), ErrorCode::kArgument);
  EXPECT_EQ(code([] { Hessian(0, HessianKind::kFull); }), ErrorCode::kArgument);
}

TEST(Cholesky, FactorsOfEverySize) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  for (const int64_t n : {1, 2, 15, 16, 17, 33, 127, 128, 129, 200, 333, 530}) {
    std::vector<double> root(static_cast<size_t>(n * n)), g(root.size());
    for (double& v : root) v = normal(random);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = i == j ? 0.1 * static_cast<double>(n) : 0.0;
        for (int64_t k = 0; k < n; ++k)
          sum += root[static_cast<size_t>(k * n + i)] * root[static_cast<size_t>(k * n + j)];
        g[static_cast<size_t>(i * n + j)] = sum;
      }
    }
    std::vector<double> u = g, other = g;
    ThreadPool one(1), three(3);
    ASSERT_FALSE(cholesky(u.data(), n, one)) << n;
    ASSERT_FALSE(cholesky(other.data(), n, three)) << n;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i; j < n; ++j) {
        const auto at = static_cast<size_t>(i * n + j);
        ASSERT_EQ(u[at], other[at]);
        double sum = 0.0;
        for (int64_t k = 0; k <= i; ++k)
          sum += u[static_cast<size_t>(k * n + i)] * u[static_cast<size_t>(k * n + j)];
        ASSERT_NEAR(sum, g[at], 1e-13 * static_cast<double>(n * n)) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(Cholesky, NamesTheFirstBadPivot) {
  constexpr int64_t kColumns = 300;
  ThreadPool pool(2);
  for (const int64_t bad : {0, 5, 127, 128, 255, 299}) {
    for (const double pivot : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity()}) {
      std::vector<double> g(kColumns * kColumns, 0.0);
      for (int64_t k = 0; k < kColumns; ++k) g[static_cast<size_t>(k * kColumns + k)] = 2.0;
      g[static_cast<size_t>(bad * kColumns + bad)] = pivot;
      EXPECT_EQ(cholesky(g.data(), kColumns, pool), bad) << pivot;
    }
  }
}

// H + damping = A D A^T in the order of rounding.
TEST(HessianFactor, ReproducesItsMatrix) {
  for (const bool activation_order : {false, true}) {
    const test::Layer layer = test::make_layer(test::Spectrum::kStrong, 1, 200, 6);
    Hessian h = layer.hessian();
    ThreadPool pool(2);
    const HessianFactor factor =
        factor_hessian(h, {.activation_order = activation_order, .damping = 0.03}, pool);
    ASSERT_TRUE(factor.factored);
    EXPECT_NEAR(factor.mean_diagonal, 1.0, 1e-9);
    const auto n = static_cast<size_t>(layer.columns);
    for (size_t i = 0; i < n; ++i) {
      const auto row = static_cast<size_t>(factor.order[i]);
      if (i + 1 < n) {
        const auto next = static_cast<size_t>(factor.order[i + 1]);
        EXPECT_TRUE(activation_order ? layer.h[row * n + row] >= layer.h[next * n + next]
                                     : next == row + 1);
      }
      EXPECT_EQ(factor.a[i * n + i], 1.0f);
      for (size_t j = i; j < n; ++j) {
        const auto column = static_cast<size_t>(factor.order[j]);
        double sum = 0.0;
        for (size_t k = j; k < n; ++k)
          sum += static_cast<double>(factor.a[i * n + k]) * static_cast<double>(factor.costs[k]) *
                 static_cast<double>(factor.a[j * n + k]);
        ASSERT_NEAR(sum, layer.h[row * n + column] + (i == j ? 0.03 : 0.0), 1e-4);
      }
    }
  }
}

}  // namespace
}  // namespace jang
