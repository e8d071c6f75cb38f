// The gains of each step over MLX's rounding on layers whose H is known, against simulated figures
// of an independent implementation (docs/quantization.md): decibels of tr(E H E^T), 48 x 512
// weights, g64, bf16 scales, damping 0.01.
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "solver_data.h"

namespace jang {
namespace {

using test::Layer;
using test::Spectrum;

struct Row {
  const char* step;
  std::array<double, 3> mild, medium, strong;  // at 2, 3 and 4 bits
};
constexpr std::array<Row, 7> kExpected = {{
    {"MSE grid", {2.1, 1.4, 0.9}, {2.0, 1.5, 1.0}, {1.9, 1.4, 0.9}},
    {"diag-H grid", {2.4, 1.8, 1.2}, {3.2, 2.8, 2.0}, {5.2, 4.9, 4.0}},
    {"GPTQ, MLX grid, natural order", {1.5, 1.6, 1.6}, {3.7, 3.8, 3.8}, {5.6, 5.8, 5.7}},
    {"GPTQ, static MSE grid", {3.6, 3.0, 2.6}, {6.4, 5.9, 5.5}, {8.8, 8.4, 8.0}},
    {"GPTQ, static diag-H grid", {3.9, 3.3, 2.8}, {7.4, 6.9, 6.4}, {11.7, 11.4, 10.6}},
    {"+ 2x (refit, CD)", {4.1, 3.5, 3.0}, {7.6, 7.1, 6.5}, {12.0, 11.6, 10.8}},
    {"diag-H grid + 4 CD passes", {4.0, 3.3, 2.8}, {6.7, 6.2, 5.5}, {10.5, 10.0, 9.2}},
}};

std::array<double, 7> gains(const Layer& layer, int bits) {
  const AffineFormat format{bits, 64, DType::kBF16};
  ThreadPool pool(1);
  Hessian first = layer.hessian(), second = layer.hessian();
  const GptqSolver solver(first, {.activation_order = true, .damping = 0.01}, pool);
  const GptqSolver natural(second, {.activation_order = false, .damping = 0.01}, pool);
  const double rtn = proxy_loss(layer, plain(layer, format, Method::kRtn).values);
  const auto gain = [&](const GptqSolver& with, const SolveOptions& options) {
    return test::decibels(rtn, proxy_loss(layer, solve(with, layer, format, options).values));
  };
  return {
      gain(solver, {.grid = GridRule::kMse, .feedback = false, .polish_rounds = 0}),
      gain(solver, {.feedback = false, .polish_rounds = 0}),
      gain(natural, {.grid = GridRule::kPlain, .widen_clipped = false, .polish_rounds = 0}),
      gain(solver, {.grid = GridRule::kMse, .polish_rounds = 0}),
      gain(solver, {.polish_rounds = 0}),
      gain(solver, {}),
      gain(solver, {.feedback = false, .descents = 4, .polish_rounds = 0}),
  };
}

struct Case {
  Spectrum spectrum;
  int bits;
  int seeds;
};

// Layers serve every width; making one costs more than solving it.
const Layer& layer_of(Spectrum spectrum, int seed) {
  static std::map<std::pair<Spectrum, int>, Layer> layers;
  const auto [at, made] = layers.try_emplace({spectrum, seed});
  if (made) at->second = test::make_layer(spectrum, 48, 512, static_cast<uint32_t>(100 + seed));
  return at->second;
}

class Oracle : public testing::TestWithParam<Case> {};

TEST_P(Oracle, EveryStepGainsWhatItShould) {
  const Case& c = GetParam();
  std::array<double, 7> mean{};
  for (int seed = 0; seed < c.seeds; ++seed) {
    const auto found = gains(layer_of(c.spectrum, seed), c.bits);
    for (size_t i = 0; i < found.size(); ++i) mean[i] += found[i] / c.seeds;
  }
  for (size_t i = 0; i < mean.size(); ++i) {
    const Row& row = kExpected[i];
    const auto& column = c.spectrum == Spectrum::kMild     ? row.mild
                         : c.spectrum == Spectrum::kMedium ? row.medium
                                                           : row.strong;
    const double expected = column[static_cast<size_t>(c.bits - 2)];
    const double slack = c.spectrum == Spectrum::kStrong ? 1.2 : 0.5;
    EXPECT_GE(mean[i], expected - slack) << row.step;
    std::printf("  %-30s %5.2f dB (%.1f)\n", row.step, mean[i], expected);
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  constexpr std::array kNames = {"Mild", "Medium", "Strong"};
  return kNames[static_cast<size_t>(info.param.spectrum)] + std::to_string(info.param.bits);
}

constexpr Case kCases[] = {
    {Spectrum::kMedium, 3, 5}, {Spectrum::kStrong, 3, 5}, {Spectrum::kMild, 3, 2},
    {Spectrum::kMild, 2, 1},   {Spectrum::kMild, 4, 1},   {Spectrum::kMedium, 2, 2},
    {Spectrum::kMedium, 4, 2}, {Spectrum::kStrong, 2, 2}, {Spectrum::kStrong, 4, 2},
};
INSTANTIATE_TEST_SUITE_P(Layers, Oracle, testing::ValuesIn(kCases), name_of);

}  // namespace
}  // namespace jang
