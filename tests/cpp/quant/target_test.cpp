// The asymmetric target: its real optimum, the choice and the cap of alpha, and what it is for: the
// output error of a layer whose inputs already carry an error.
#include "quant/target.h"

#include <gtest/gtest.h>

#include "quant/active_kernels.h"
#include "solver_data.h"

namespace jang {
namespace {

using test::Layer;
using test::Stored;

// Inputs of the full-precision and of the quantized model, [tokens][columns].
struct Streams {
  int64_t tokens, columns;
  std::vector<float> x, quantized;

  Streams(const Layer& layer, int64_t token_count, uint32_t seed)
      : tokens(token_count),
        columns(layer.columns),
        x(static_cast<size_t>(tokens * columns)),
        quantized(x.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    // Correlated inputs: few directions and noise, scaled by column.
    std::vector<float> mix(static_cast<size_t>(12 * columns));
    std::mt19937 fixed(77);
    for (float& v : mix) v = normal(fixed);
    for (int64_t t = 0; t < tokens; ++t) {
      float shared[12];
      for (float& v : shared) v = normal(random);
      for (int64_t k = 0; k < columns; ++k) {
        float sum = 0.5f * normal(random);
        for (int64_t d = 0; d < 12; ++d)
          sum += shared[d] * mix[static_cast<size_t>(d * columns + k)] * 0.3f;
        x[static_cast<size_t>(t * columns + k)] = sum;
      }
    }
  }
  // xq = x M, an error that a linear map can undo, plus `noise` that none can.
  void disturb(float strength, float noise, uint32_t seed) {
    std::mt19937 fixed(78), random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> map(static_cast<size_t>(columns * columns));
    for (float& v : map) v = strength * normal(fixed) / std::sqrt(static_cast<float>(columns));
    for (int64_t t = 0; t < tokens; ++t) {
      const float* from = x.data() + t * columns;
      for (int64_t j = 0; j < columns; ++j) {
        double sum = static_cast<double>(from[j] + noise * normal(random));
        for (int64_t k = 0; k < columns; ++k)
          sum += static_cast<double>(from[k]) *
                 static_cast<double>(map[static_cast<size_t>(k * columns + j)]);
        quantized[static_cast<size_t>(t * columns + j)] = static_cast<float>(sum);
      }
    }
  }
  Hessian hessian(ThreadPool& pool) const {
    Hessian h(columns, HessianKind::kFull);
    h.add(quantized.data(), columns, tokens, {}, pool);
    return h;
  }
  CrossMoment cross(ThreadPool& pool) const {
    CrossMoment c(columns);
    c.add(x.data(), quantized.data(), columns, tokens, {}, pool);
    return c;
  }
  // ||W X - V Xq||^2 / ||W X||^2.
  double output_error(const Layer& layer, std::span<const float> values) const {
    double error = 0.0, total = 0.0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < layer.rows; ++r) {
        double wanted = 0.0, found = 0.0;
        for (int64_t k = 0; k < columns; ++k) {
          const auto at = static_cast<size_t>(r * columns + k);
          const auto in = static_cast<size_t>(t * columns + k);
          wanted += static_cast<double>(layer.weights[at]) * static_cast<double>(x[in]);
          found += static_cast<double>(values[at]) * static_cast<double>(quantized[in]);
        }
        error += (wanted - found) * (wanted - found);
        total += wanted * wanted;
      }
    }
    return error / total;
  }
};

constexpr int64_t kColumns = 96;

std::vector<float> correction_of(const Layer& layer, const Streams& streams, double damping) {
  ThreadPool pool(1);
  Hessian h = streams.hessian(pool);
  const HessianFactor factor =
      factor_hessian(h, {.activation_order = true, .damping = damping}, pool);
  const AlignedBuffer<float> difference = cross_difference(streams.cross(pool), h, pool);
  constexpr int64_t kStride = 16;
  std::vector<float> transposed(static_cast<size_t>(kColumns * kStride)), v(transposed.size()),
      rows(static_cast<size_t>(layer.rows * kColumns));
  transpose_in(layer.weights.data(), layer.rows, kColumns, kStride, transposed.data());
  PanelScratch scratch;
  AlignedBuffer<float> work;
  target_correction(active_kernels(), factor, difference.data(), transposed.data(), kStride,
                    scratch, work, v.data());
  transpose_out(v.data(), kStride, layer.rows, kColumns, rows.data());
  return rows;
}

TEST(Target, UndoesALinearMapOfTheInputs) {
  const Layer layer = test::make_layer(test::Spectrum::kMild, 9, kColumns, 30);
  Streams streams(layer, 600, 31);
  streams.disturb(0.2f, 0.0f, 32);
  const double before = streams.output_error(layer, layer.weights);
  double last = before;
  for (const double damping : {1e-1, 1e-3, 1e-5}) {
    std::vector<float> target = correction_of(layer, streams, damping);
    for (size_t i = 0; i < target.size(); ++i) target[i] += layer.weights[i];
    const double after = streams.output_error(layer, target);
    EXPECT_LT(after, last);
    last = after;
  }
  EXPECT_GT(before, 0.01);
  EXPECT_LT(last, 1e-7);
}

TEST(Target, IsTheSourceWhenInputsAreExact) {
  const Layer layer = test::make_layer(test::Spectrum::kMild, 5, kColumns, 33);
  Streams streams(layer, 400, 34);
  streams.quantized = streams.x;
  for (const float v : correction_of(layer, streams, 0.01)) EXPECT_NEAR(v, 0.0f, 1e-7f);
}

TEST(Target, LowersTheOutputErrorOnHeldOutTokens) {
  const Layer layer = test::make_layer(test::Spectrum::kMild, 32, kColumns, 35);
  Streams seen(layer, 900, 36), held_out(layer, 200, 37), fresh(layer, 300, 38);
  seen.disturb(0.15f, 0.05f, 39);
  held_out.disturb(0.15f, 0.05f, 40);
  fresh.disturb(0.15f, 0.05f, 41);
  ThreadPool pool(2);
  Hessian h = seen.hessian(pool), other = held_out.hessian(pool);
  GptqSolver solver(h, {}, pool);
  const AffineFormat format{4, 32, DType::kBF16};
  const Stored symmetric = solve(solver, layer, format, {});
  solver.set_target(seen.cross(pool), h, pool);
  SolveReport fixed, chosen, capped;
  const Stored half = solve(solver, layer, format, {.target_limit = 1.0}, &fixed);
  EXPECT_EQ(fixed.alpha, 0.5);
  solver.set_held_out(held_out.cross(pool), other, pool);
  const Stored best = solve(solver, layer, format, {.target_limit = 1.0}, &chosen);
  EXPECT_GT(chosen.alpha, 0.5);
  EXPECT_LE(chosen.alpha, 1.0);
  const double without = fresh.output_error(layer, symmetric.values);
  const double with_half = fresh.output_error(layer, half.values);
  const double with_best = fresh.output_error(layer, best.values);
  EXPECT_LT(with_half, without);
  EXPECT_LT(with_best, with_half);
  EXPECT_LT(with_best, 0.5 * without);

  // The limit is on the size of the change, so a tenth of it is a tenth of alpha.
  solve(solver, layer, format, {.target_limit = 0.01}, &capped);
  SolveReport tenth;
  solve(solver, layer, format, {.target_limit = 0.001}, &tenth);
  EXPECT_LT(capped.alpha, chosen.alpha);
  EXPECT_NEAR(tenth.alpha, 0.1 * capped.alpha, 1e-6);
}

TEST(Target, NoiseThatNothingUndoesIsNotFollowed) {
  const Layer layer = test::make_layer(test::Spectrum::kMild, 16, kColumns, 42);
  // Few tokens: the correction is noise, which held-out tokens show.
  Streams seen(layer, 100, 43), held_out(layer, 100, 44);
  seen.disturb(0.0f, 0.2f, 45);
  held_out.disturb(0.0f, 0.2f, 46);
  ThreadPool pool(1);
  Hessian h = seen.hessian(pool), other = held_out.hessian(pool);
  GptqSolver solver(h, {.activation_order = true, .damping = 1e-4}, pool);
  solver.set_target(seen.cross(pool), h, pool);
  solver.set_held_out(held_out.cross(pool), other, pool);
  SolveReport report;
  solve(solver, layer, {4, 32, DType::kBF16}, {.target_limit = 10.0}, &report);
  EXPECT_LT(report.alpha, 0.25);
}

TEST(Target, ThreadsDoNotMatter) {
  const Layer layer = test::make_layer(test::Spectrum::kMild, 100, kColumns, 47);
  Streams seen(layer, 300, 48);
  seen.disturb(0.1f, 0.05f, 49);
  std::optional<Stored> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    Hessian h = seen.hessian(pool);
    GptqSolver solver(h, {}, pool);
    solver.set_target(seen.cross(pool), h, pool);
    const Stored found = solve(solver, layer, {3, 32, DType::kF16}, {}, nullptr, threads);
    if (!first) first = found;
    EXPECT_TRUE(found == *first) << threads;
  }
}

}  // namespace
}  // namespace jang
