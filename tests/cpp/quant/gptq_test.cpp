// The solver against what is known exactly: plain rounding, the textbook form with an inverse,
// exhaustive search, and what must not matter (threads, order of rows).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "quant/active_kernels.h"
#include "quant/coordinate_descent.h"
#include "quant/feedback_solver.h"
#include "quant/refit.h"
#include "solver_data.h"

namespace jang {
namespace {

using test::Layer;
using test::Spectrum;
using test::Stored;

GptqSolver solver_of(const Layer& layer, const FactorOptions& options = {}, double tokens = 1e9) {
  ThreadPool pool(1);
  Hessian h = layer.hessian(tokens);
  return {h, options, pool};
}

double stored_value(const Stored& stored, const AffineFormat& format, bool bias, size_t group) {
  const std::byte* from = (bias ? stored.biases : stored.scales).data();
  uint16_t half;
  float single;
  switch (format.metadata) {
    case DType::kF16:
      std::memcpy(&half, from + group * 2, 2);
      return static_cast<double>(half_to_float(half));
    case DType::kBF16:
      std::memcpy(&half, from + group * 2, 2);
      return static_cast<double>(bf16_to_float(half));
    default:
      std::memcpy(&single, from + group * 4, 4);
      return static_cast<double>(single);
  }
}

std::vector<uint8_t> codes_of(const Stored& stored, const Layer& layer,
                              const AffineFormat& format) {
  std::vector<uint8_t> codes(static_cast<size_t>(layer.rows * layer.columns));
  unpack_codes(stored.codes.data(), static_cast<uint64_t>(layer.rows),
               static_cast<uint64_t>(layer.columns), format.bits, codes);
  return codes;
}

Layer diagonal_layer(int64_t rows, int64_t n) {
  Layer layer = test::make_layer(Spectrum::kMedium, rows, n, 3);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      if (i != j) layer.h[static_cast<size_t>(i * n + j)] = 0.0;
    }
  }
  return layer;
}

TEST(Gptq, DiagonalHessianIsPlainRounding) {
  const Layer layer = diagonal_layer(20, 192);
  const GptqSolver solver = solver_of(layer);
  for (const int bits : kBitWidths) {
    const AffineFormat format{bits, 32, DType::kF16};
    const Stored found = solve(solver, layer, format, {.widen_clipped = false, .polish_rounds = 0});
    const Stored nearest = solve(solver, layer, format, {.feedback = false, .polish_rounds = 0});
    EXPECT_EQ(found.codes, nearest.codes) << bits;
    EXPECT_EQ(found.scales, nearest.scales) << bits;
    EXPECT_EQ(found.biases, nearest.biases) << bits;
  }
}

// The algorithm as published, in double: rows of the inverse's upper Cholesky factor, each error
// spread over the columns behind it.
std::vector<uint8_t> textbook(const Layer& layer, const Stored& grid, const AffineFormat& format,
                              double damping, const std::vector<int32_t>& order) {
  const auto n = static_cast<size_t>(layer.columns);
  std::vector<double> h(n * n), inverse(n * n, 0.0);
  double mean = 0.0;
  for (size_t k = 0; k < n; ++k) mean += layer.h[k * n + k] / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j)
      h[i * n + j] = layer.h[static_cast<size_t>(order[i]) * n + static_cast<size_t>(order[j])];
    h[i * n + i] += damping * mean;
    inverse[i * n + i] = 1.0;
  }
  // Gauss-Jordan; H is positive definite.
  for (size_t k = 0; k < n; ++k) {
    const double pivot = 1.0 / h[k * n + k];
    for (size_t j = 0; j < n; ++j) {
      h[k * n + j] *= pivot;
      inverse[k * n + j] *= pivot;
    }
    for (size_t i = 0; i < n; ++i) {
      const double factor = h[i * n + k];
      if (i == k || factor == 0.0) continue;
      for (size_t j = 0; j < n; ++j) {
        h[i * n + j] -= factor * h[k * n + j];
        inverse[i * n + j] -= factor * inverse[k * n + j];
      }
    }
  }
  std::vector<double> upper(n * n, 0.0);  // inverse = upper^T upper
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      double sum = inverse[i * n + j];
      for (size_t k = 0; k < i; ++k) sum -= upper[k * n + i] * upper[k * n + j];
      upper[i * n + j] = i == j ? std::sqrt(sum) : sum / upper[i * n + i];
    }
  }
  std::vector<uint8_t> codes(static_cast<size_t>(layer.rows) * n);
  const size_t groups = n / static_cast<size_t>(format.group_size);
  for (size_t r = 0; r < static_cast<size_t>(layer.rows); ++r) {
    std::vector<double> w(n);
    for (size_t k = 0; k < n; ++k)
      w[k] = static_cast<double>(layer.weights[r * n + static_cast<size_t>(order[k])]);
    for (size_t k = 0; k < n; ++k) {
      const auto column = static_cast<size_t>(order[k]);
      const size_t group = r * groups + column / static_cast<size_t>(format.group_size);
      const double s = stored_value(grid, format, false, group);
      const double b = stored_value(grid, format, true, group);
      const double q =
          std::clamp(std::nearbyint((w[k] - b) / s), 0.0, static_cast<double>(format.max_code()));
      codes[r * n + column] = static_cast<uint8_t>(q);
      const double error = (w[k] - (s * q + b)) / upper[k * n + k];
      for (size_t j = k; j < n; ++j) w[j] -= error * upper[k * n + j];
    }
  }
  return codes;
}

TEST(Gptq, CodesAreThoseOfTheTextbookForm) {
  for (const bool activation_order : {false, true}) {
    for (const int64_t n : {64, 96, 160}) {
      const Layer layer =
          test::make_layer(Spectrum::kStrong, 16, n, static_cast<uint32_t>(n) + activation_order);
      const GptqSolver solver =
          solver_of(layer, {.activation_order = activation_order, .damping = 0.05});
      for (const int bits : {2, 3, 4, 8}) {
        const AffineFormat format{bits, 32, DType::kBF16};
        const SolveOptions options{.widen_clipped = false, .polish_rounds = 0};
        SolveReport report;
        const Stored found = solve(solver, layer, format, options, &report);
        const std::vector<uint8_t> codes = codes_of(found, layer, format);
        const std::vector<uint8_t> expected =
            textbook(layer, found, format, 0.05, solver.factor().order);
        // Rows whose nearest codes were better are reported, and kept those.
        uint64_t different = 0;
        for (int64_t r = 0; r < layer.rows; ++r) {
          different += std::equal(codes.begin() + r * n, codes.begin() + (r + 1) * n,
                                  expected.begin() + r * n)
                           ? 0
                           : 1;
        }
        EXPECT_LE(report.rows_plain, 2u);
        EXPECT_EQ(different, report.rows_plain)
            << bits << " bits, " << n << " columns, activation order " << activation_order;
      }
    }
  }
}

// A panel with a grid, as the steps get it.
struct PanelCase {
  Layer layer;
  GptqSolver solver;
  RowPanel panel;
  PanelScratch scratch;

  PanelCase(Layer from, const AffineFormat& format, double damping = 0.01)
      : layer(std::move(from)),
        solver(solver_of(layer, {.activation_order = true, .damping = damping})),
        panel(format, layer.columns, kPanelRows) {
    panel.set_rows(layer.rows);
    const auto n = static_cast<size_t>(layer.columns);
    const auto stride = static_cast<size_t>(panel.stride);
    std::fill(panel.target.span().begin(), panel.target.span().end(), 0.0f);
    std::fill(panel.codes.span().begin(), panel.codes.span().end(), uint8_t{0});
    std::fill(panel.scales.span().begin(), panel.scales.span().end(), 1.0f);
    std::fill(panel.biases.span().begin(), panel.biases.span().end(), 0.0f);
    const auto most = static_cast<float>(format.max_code());
    const auto width = static_cast<size_t>(format.group_size);
    for (size_t r = 0; r < static_cast<size_t>(layer.rows); ++r) {
      for (size_t g = 0; g < n / width; ++g) {
        const auto [low, high] = std::minmax_element(
            layer.weights.begin() + static_cast<std::ptrdiff_t>(r * n + g * width),
            layer.weights.begin() + static_cast<std::ptrdiff_t>(r * n + (g + 1) * width));
        const float s = bf16_to_float(float_to_bf16((*high - *low) / most));
        const float b = bf16_to_float(float_to_bf16(*low));
        panel.scales[g * stride + r] = s;
        panel.biases[g * stride + r] = b;
        for (size_t k = g * width; k < (g + 1) * width; ++k) {
          const float w = layer.weights[r * n + k];
          panel.target[k * stride + r] = w;
          panel.codes[k * stride + r] =
              static_cast<uint8_t>(std::clamp(std::nearbyint((w - b) / s), 0.0f, most));
        }
      }
    }
    panel.update_errors();
  }
  // sum over the panel of E (H + damping) E^T, in double, from codes, scales and biases.
  double loss(double damping = 0.0) const {
    const auto n = static_cast<size_t>(layer.columns);
    const auto stride = static_cast<size_t>(panel.stride);
    double total = 0.0;
    std::vector<double> e(n);
    for (size_t r = 0; r < static_cast<size_t>(layer.rows); ++r) {
      for (size_t k = 0; k < n; ++k) {
        const auto g = static_cast<size_t>(panel.group_of(static_cast<int64_t>(k)));
        e[k] = static_cast<double>(panel.scales[g * stride + r]) * panel.codes[k * stride + r] +
               static_cast<double>(panel.biases[g * stride + r]) -
               static_cast<double>(panel.target[k * stride + r]);
      }
      for (size_t i = 0; i < n; ++i) {
        double sum = damping * e[i];
        for (size_t j = 0; j < n; ++j) sum += layer.h[i * n + j] * e[j];
        total += e[i] * sum;
      }
    }
    return total;
  }
  std::vector<double> feedback() {
    std::vector<double> losses(static_cast<size_t>(kPanelRows));
    solve_with_feedback(active_kernels(), solver.factor(), panel, panel.scales.data(),
                        panel.biases.data(), scratch, panel.errors.data(), panel.codes.data(),
                        losses.data(), nullptr);
    panel.update_errors();
    return losses;
  }
  void refit_once() {
    std::vector<uint8_t> changed(static_cast<size_t>(kPanelRows));
    refit(active_kernels(), solver.factor(), panel, scratch, changed.data());
  }
};

TEST(Gptq, LossIsTheSumOfSquaredRoundingErrors) {
  for (const int bits : {2, 4}) {
    PanelCase c(test::make_layer(Spectrum::kMedium, 10, 160, 8), {bits, 32, DType::kBF16}, 0.02);
    const std::vector<double> losses = c.feedback();
    const double total = std::accumulate(losses.begin(), losses.begin() + 10, 0.0);
    const double expected = c.loss(0.02 * c.solver.factor().mean_diagonal);
    EXPECT_NEAR(total, expected, 1e-4 * expected);
  }
}

TEST(Gptq, DescentAndRefitNeverRaiseTheLoss) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool solved : {false, true}) {
      PanelCase c(test::make_layer(Spectrum::kStrong, 12, 160, 9), {bits, 32, DType::kBF16});
      if (solved) c.feedback();
      const double start = c.loss();
      double before = start;
      for (int step = 0; step < 6; ++step) {
        if (step % 2 == 0) {
          c.refit_once();
        } else {
          descend(active_kernels(), c.solver.factor(), c.panel, c.scratch);
        }
        const double after = c.loss();
        EXPECT_LE(after, before * (1 + 1e-6)) << bits << " bits, step " << step;
        before = after;
      }
      EXPECT_LT(before, 0.995 * start) << bits;
    }
  }
}

// The refit reaches what all pairs of a row can reach together: sweeps to the end against the
// normal equations in double, for float32 scales.
TEST(Gptq, RefitConvergesToTheLeastSquaresOptimum) {
  PanelCase c(test::make_layer(Spectrum::kMedium, 4, 128, 10), {3, 32, DType::kF32});
  c.feedback();
  const auto n = static_cast<size_t>(c.layer.columns);
  const auto stride = static_cast<size_t>(c.panel.stride);
  constexpr size_t kUnknowns = 8;
  double optimum = 0.0;
  for (size_t r = 0; r < 4; ++r) {
    // Columns of P: codes of group g, then ones of group g; minimise (P x - w) H (P x - w)^T.
    std::vector<double> p(kUnknowns * n, 0.0), hp(kUnknowns * n, 0.0), w(n), hw(n, 0.0);
    for (size_t k = 0; k < n; ++k) {
      p[(2 * (k / 32)) * n + k] = c.panel.codes[k * stride + r];
      p[(2 * (k / 32) + 1) * n + k] = 1.0;
      w[k] = static_cast<double>(c.panel.target[k * stride + r]);
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        hw[i] += c.layer.h[i * n + j] * w[j];
        for (size_t u = 0; u < kUnknowns; ++u) hp[u * n + i] += c.layer.h[i * n + j] * p[u * n + j];
      }
    }
    double a[kUnknowns][kUnknowns + 1] = {};
    double constant = 0.0;
    for (size_t i = 0; i < n; ++i) {
      constant += w[i] * hw[i];
      for (size_t u = 0; u < kUnknowns; ++u) {
        a[u][kUnknowns] += p[u * n + i] * hw[i];
        for (size_t v = 0; v < kUnknowns; ++v) a[u][v] += p[u * n + i] * hp[v * n + i];
      }
    }
    double rhs[kUnknowns];
    for (size_t u = 0; u < kUnknowns; ++u) rhs[u] = a[u][kUnknowns];
    for (size_t u = 0; u < kUnknowns; ++u) {
      for (size_t v = 0; v < kUnknowns; ++v) {
        if (v == u) continue;
        const double factor = a[v][u] / a[u][u];
        for (size_t x = u; x <= kUnknowns; ++x) a[v][x] -= factor * a[u][x];
      }
    }
    optimum += constant;
    for (size_t u = 0; u < kUnknowns; ++u) optimum -= rhs[u] * a[u][kUnknowns] / a[u][u];
  }
  const double before = c.loss();
  c.refit_once();
  const double once = c.loss();
  for (int i = 0; i < 40; ++i) c.refit_once();
  EXPECT_LT(optimum, before);
  EXPECT_NEAR(c.loss(), optimum, 0.002 * optimum);
  // One sweep takes most of what there is to gain.
  EXPECT_GT(before - once, 0.6 * (before - optimum));
}

// Six columns at two bits: all 4096 codes of a row, tried one by one.
TEST(Gptq, IsNearTheExhaustiveOptimumOnSmallRows) {
  constexpr int64_t kColumns = 6, kRows = 32;
  double solved = 0.0, polished = 0.0, optimal = 0.0, plain = 0.0;
  int exact = 0;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    PanelCase c(test::make_layer(Spectrum::kMedium, kRows, kColumns, 40 + seed),
                {2, kColumns, DType::kBF16}, 1e-6);
    plain += c.loss();
    c.feedback();
    solved += c.loss();
    descend(active_kernels(), c.solver.factor(), c.panel, c.scratch);
    descend(active_kernels(), c.solver.factor(), c.panel, c.scratch);
    polished += c.loss();
    const auto stride = static_cast<size_t>(c.panel.stride);
    for (size_t r = 0; r < kRows; ++r) {
      const auto loss_of = [&](const std::array<int, kColumns>& q) {
        std::array<double, kColumns> e{};
        for (size_t k = 0; k < kColumns; ++k)
          e[k] = static_cast<double>(c.panel.scales[r]) * q[k] +
                 static_cast<double>(c.panel.biases[r]) -
                 static_cast<double>(c.panel.target[k * stride + r]);
        double loss = 0.0;
        for (size_t i = 0; i < kColumns; ++i) {
          for (size_t j = 0; j < kColumns; ++j) loss += e[i] * c.layer.h[i * kColumns + j] * e[j];
        }
        return loss;
      };
      double best = std::numeric_limits<double>::infinity();
      std::array<int, kColumns> q{};
      for (int index = 0; index < 4096; ++index) {
        for (size_t k = 0; k < kColumns; ++k) q[k] = (index >> (2 * k)) & 3;
        best = std::min(best, loss_of(q));
      }
      for (size_t k = 0; k < kColumns; ++k) q[k] = c.panel.codes[k * stride + r];
      const double found = loss_of(q);
      ASSERT_GE(found, best * (1 - 1e-9));
      exact += found <= best * (1 + 1e-9) ? 1 : 0;
      optimal += best;
    }
  }
  EXPECT_LT(solved, plain);
  EXPECT_LE(polished, solved);
  EXPECT_LT(polished, 1.25 * optimal);
  EXPECT_GT(exact, 6 * kRows / 2);
}

TEST(Gptq, RowsAreIndependent) {
  const Layer layer = test::make_layer(Spectrum::kMedium, 37, 160, 11);
  const GptqSolver solver = solver_of(layer);
  Layer reversed = layer;
  for (int64_t r = 0; r < layer.rows; ++r)
    std::copy_n(layer.weights.begin() + r * layer.columns, layer.columns,
                reversed.weights.begin() + (layer.rows - 1 - r) * layer.columns);
  const AffineFormat format{3, 32, DType::kBF16};
  const Stored forward = solve(solver, layer, format, {});
  const Stored backward = solve(solver, reversed, format, {});
  for (int64_t r = 0; r < layer.rows; ++r) {
    EXPECT_TRUE(std::equal(forward.values.begin() + r * layer.columns,
                           forward.values.begin() + (r + 1) * layer.columns,
                           backward.values.begin() + (layer.rows - 1 - r) * layer.columns))
        << r;
  }
}

TEST(Gptq, ThreadsDoNotMatter) {
  const Layer layer = test::make_layer(Spectrum::kMedium, 230, 288, 12);
  for (const int bits : {2, 4}) {
    const AffineFormat format{bits, 32, DType::kF16};
    std::optional<Stored> first;
    for (const int threads : {1, 2, 3, 7}) {
      ThreadPool pool(threads);
      Hessian h = layer.hessian();
      const GptqSolver solver(h, {}, pool);
      SolveReport report;
      const Stored found = solve(solver, layer, format, {}, &report, threads);
      if (!first) first = found;
      EXPECT_TRUE(found == *first) << threads;
      EXPECT_LT(report.error, report.plain_error);
    }
  }
}

TEST(Gptq, EveryFormatGainsAndReportsItsLoss) {
  for (const int64_t n : {128, 192, 384}) {
    const Layer layer = test::make_layer(Spectrum::kMedium, 24, n, static_cast<uint32_t>(n));
    const GptqSolver solver = solver_of(layer);
    double energy = 0.0;
    {
      const std::vector<float> nothing(layer.weights.size());
      energy = test::proxy_loss(layer, nothing);
    }
    for (const int bits : kBitWidths) {
      for (const int group : {32, 64, 128}) {
        if (n % group != 0) continue;
        for (const DType type : {DType::kF16, DType::kBF16, DType::kF32}) {
          SCOPED_TRACE(testing::Message() << n << " columns, " << bits << " bits, g" << group);
          const AffineFormat format{bits, group, type};
          SolveReport report;
          const Stored found = solve(solver, layer, format, {}, &report);
          const double loss = test::proxy_loss(layer, found.values);
          EXPECT_NEAR(report.error, loss / energy, 2e-3 * report.error);
          EXPECT_LT(loss, test::proxy_loss(layer, plain(layer, format, Method::kMse).values));
          EXPECT_LE(report.error, report.solved_error * (1 + 1e-6));
          EXPECT_LT(report.solved_error, report.plain_error);
          EXPECT_EQ(report.rows, 24u);
        }
      }
    }
  }
}

TEST(Gptq, LatticeWeightsAreExact) {
  Layer layer = test::make_layer(Spectrum::kStrong, 8, 128, 14);
  std::mt19937 random(2);
  for (const int bits : {2, 4}) {
    for (float& w : layer.weights)
      w = 0.0625f *
          static_cast<float>(static_cast<int>(random() % (1u << bits)) - (1 << (bits - 1)));
    SolveReport report;
    const Stored found = solve(solver_of(layer), layer, {bits, 64, DType::kBF16}, {}, &report);
    EXPECT_EQ(found.values, layer.weights) << bits;
    EXPECT_EQ(report.error, 0.0);
  }
}

TEST(Gptq, DeadColumnsAreRoundedPlainly) {
  constexpr int64_t kColumns = 128;
  Layer layer = test::make_layer(Spectrum::kMedium, 8, kColumns, 15);
  for (const int64_t dead : {3, 64, 127}) {
    for (int64_t k = 0; k < kColumns; ++k) {
      layer.h[static_cast<size_t>(dead * kColumns + k)] = 0.0;
      layer.h[static_cast<size_t>(k * kColumns + dead)] = 0.0;
    }
  }
  const AffineFormat format{4, 32, DType::kBF16};
  const Stored found = solve(solver_of(layer), layer, format, {.polish_rounds = 0});
  const Stored nearest =
      solve(solver_of(layer), layer, format, {.feedback = false, .polish_rounds = 0});
  for (int64_t r = 0; r < layer.rows; ++r) {
    for (const int64_t dead : {3, 64, 127}) {
      const auto at = static_cast<size_t>(r * kColumns + dead);
      EXPECT_EQ(found.values[at], nearest.values[at]);
      EXPECT_NEAR(found.values[at], layer.weights[at], 0.05);
    }
  }
}

// Moments of fewer tokens than columns have no inverse; damping by columns over tokens keeps the
// solver from fitting their noise: judged by the H that they were drawn from.
TEST(Gptq, FewTokensStillGain) {
  constexpr int64_t kColumns = 256;
  const Layer truth = test::make_layer(Spectrum::kMedium, 24, kColumns, 16);
  // Draws from N(0, H) through a Cholesky factor.
  std::vector<double> lower(truth.h.size(), 0.0);
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = truth.h[static_cast<size_t>(i * kColumns + j)];
      for (int64_t k = 0; k < j; ++k)
        sum -= lower[static_cast<size_t>(i * kColumns + k)] *
               lower[static_cast<size_t>(j * kColumns + k)];
      lower[static_cast<size_t>(i * kColumns + j)] =
          i == j ? std::sqrt(sum) : sum / lower[static_cast<size_t>(j * kColumns + j)];
    }
  }
  std::mt19937 random(17);
  std::normal_distribution<double> normal;
  const AffineFormat format{3, 64, DType::kBF16};
  const double mse = test::proxy_loss(truth, plain(truth, format, Method::kMse).values);
  for (const int64_t tokens : {64, 512}) {
    std::vector<float> x(static_cast<size_t>(tokens * kColumns));
    std::vector<double> draw(static_cast<size_t>(kColumns));
    for (int64_t t = 0; t < tokens; ++t) {
      for (double& v : draw) v = normal(random);
      for (int64_t i = 0; i < kColumns; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j <= i; ++j)
          sum += lower[static_cast<size_t>(i * kColumns + j)] * draw[static_cast<size_t>(j)];
        x[static_cast<size_t>(t * kColumns + i)] = static_cast<float>(sum);
      }
    }
    ThreadPool pool(2);
    Hessian h(kColumns, HessianKind::kFull);
    h.add(x.data(), kColumns, tokens, {}, pool);
    const GptqSolver solver(h, {}, pool);
    EXPECT_EQ(solver.factor().values_damping > 0.0, tokens < kColumns);
    SolveReport report;
    const Stored found = solve(solver, truth, format, {}, &report);
    EXPECT_TRUE(report.factored);
    EXPECT_EQ(report.factor_attempts, 1);
    EXPECT_GT(test::decibels(mse, test::proxy_loss(truth, found.values)), tokens == 64 ? 1.0 : 2.5)
        << tokens;
  }
}

TEST(Gptq, RankOneMomentsAreSolved) {
  constexpr int64_t kColumns = 64;
  Layer layer = test::make_layer(Spectrum::kMild, 8, kColumns, 18);
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = 0; j < kColumns; ++j)
      layer.h[static_cast<size_t>(i * kColumns + j)] =
          static_cast<double>((i % 5 + 1) * (j % 5 + 1));
  }
  SolveReport report;
  solve(solver_of(layer, {}, 1.0), layer, {2, 32, DType::kBF16}, {}, &report);
  EXPECT_TRUE(report.factored);
  EXPECT_EQ(report.lambda, 0.5);
  EXPECT_LT(report.error, 0.1 * report.plain_error);
}

// A matrix that is no second moment: more damping first, then coordinate descent alone.
TEST(Gptq, BreakdownFallsBack) {
  constexpr int64_t kColumns = 64;
  Layer layer = test::make_layer(Spectrum::kMild, 8, kColumns, 19);
  const auto set = [&](double value) {
    layer.h[1] = value;
    layer.h[kColumns] = value;
  };
  const double size = std::sqrt(layer.h[0] * layer.h[kColumns + 1]);
  set(1.1 * size);
  SolveReport report;
  solve(solver_of(layer), layer, {4, 32, DType::kBF16}, {}, &report);
  EXPECT_TRUE(report.factored);
  EXPECT_GT(report.factor_attempts, 1);
  EXPECT_GT(report.lambda, 0.01);
  EXPECT_LT(report.error, report.plain_error);

  set(40.0 * size);
  const GptqSolver hopeless = solver_of(layer);
  EXPECT_FALSE(hopeless.factor().factored);
  EXPECT_EQ(hopeless.factor().attempts, 5);
  const Stored found = solve(hopeless, layer, {4, 32, DType::kBF16}, {}, &report);
  EXPECT_FALSE(report.factored);
  EXPECT_TRUE(std::all_of(found.values.begin(), found.values.end(),
                          [](float v) { return std::isfinite(v); }));
}

ErrorCode code_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kCancelled;
}

TEST(Gptq, RefusesMomentsThatAreNotFinite) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const size_t at : {size_t{0}, size_t{64 * 5 + 2}, size_t{64 * 64 - 1}}) {
      Layer layer = test::make_layer(Spectrum::kMild, 1, 64, 20);
      layer.h[at] = bad;
      EXPECT_EQ(code_of([&] { solver_of(layer); }), ErrorCode::kNonFinite) << at;
    }
  }
  Layer negative = test::make_layer(Spectrum::kMild, 1, 64, 20);
  negative.h[64 * 7 + 7] = -1e-3;
  EXPECT_EQ(code_of([&] { solver_of(negative); }), ErrorCode::kArgument);
  ThreadPool pool(1);
  Hessian empty(64, HessianKind::kFull);
  EXPECT_EQ(code_of([&] { GptqSolver(empty, {}, pool); }), ErrorCode::kArgument);
}

TEST(Gptq, RefusesWeightsAsOtherMethodsDo) {
  Layer layer = test::make_layer(Spectrum::kMild, 40, 64, 21);
  layer.weights[64 * 33 + 5] = std::numeric_limits<float>::quiet_NaN();
  try {
    solve(solver_of(layer), layer, {4, 32, DType::kBF16}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_NE(error.message().find("row 33, column 5"), std::string::npos) << error.message();
  }
  for (float& w : layer.weights) w *= 1e9f;
  layer.weights[64 * 33 + 5] = 0.0f;
  EXPECT_EQ(code_of([&] {
              solve(solver_of(layer), layer, {4, 32, DType::kF16}, {});
            }),
            ErrorCode::kRange);
}

}  // namespace
}  // namespace jang
