// Importance of columns on its way through a conversion: to every panel, to experts and to cut
// rows, into the documents, and to the bound that verify holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "base/error.h"
#include "convert/convert.h"
#include "convert/source_model.h"
#include "convert/verify.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

ConvertOptions options_for(const std::string& profile, StatisticsInput statistics, int threads) {
  ConvertOptions options;
  options.plan.profile = profile;
  options.method = Method::kMse;
  options.threads = threads;
  options.statistics = std::move(statistics);
  options.generator_version = "1.0";
  return options;
}

/// Log-normal values, `spread` in nats.
std::vector<float> importance(uint64_t count, unsigned seed, float spread = 1.5f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = std::exp(spread * normal(random));
  return values;
}

StatisticsInput statistics_of(const SourceModel& model, float spread) {
  StatisticsInput input{{}, "some.safetensors", std::string(64, 'c')};
  unsigned seed = 0;
  for (const auto& [name, shape] : model.shapes) {
    if (shape.size() != 2 || name == "model.embed_tokens.weight") continue;
    input.mean_squares[name.substr(0, name.size() - 7)] = {{shape[1]},
                                                           importance(shape[1], ++seed, spread)};
  }
  return input;
}

std::string stored(const ModelDirectory& directory, const CheckpointTensor& tensor) {
  const auto data = directory.checkpoint.data(tensor);
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

/// What quantizing `rows` at once with one set of weights gives.
struct Expected {
  std::string codes, scales, biases;
  Expected(const std::vector<float>& values, uint64_t columns, const AffineFormat& format,
           const std::vector<float>& weights) {
    const uint64_t rows = values.size() / columns;
    codes.resize(rows * format.row_bytes(columns));
    scales.resize(rows * format.row_groups(columns) *
                  static_cast<uint64_t>(dtype_size(format.metadata)));
    biases = scales;
    const std::vector<std::byte> source = encode(values, format.metadata);
    ThreadPool pool(1);
    quantize_matrix(
        {source.data(), format.metadata, rows, columns}, format, Method::kMse,
        {reinterpret_cast<std::byte*>(codes.data()), reinterpret_cast<std::byte*>(scales.data()),
         reinterpret_cast<std::byte*>(biases.data())},
        pool, weights);
  }
};

TEST(ConvertStatistics, WeightsReachEveryPanel) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.layers = 1;
  model.vocabulary = 4133;  // the head takes several panels
  model.fill(51).write(directory / "source");
  StatisticsInput input = statistics_of(model, 1.5f);
  input.mean_squares.erase("model.layers.0.mlp.up_proj");
  fs::create_directories(directory / "out");
  const ConvertReport report = convert_directory(directory / "source", directory / "out",
                                                 options_for("JANG_3M", input, 2), {});
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("model.layers.0.mlp.up_proj"), std::string::npos);
  const ModelDirectory out = open_model_directory(directory / "out");
  for (const QuantizedModule& module : out.modules) {
    const AffineFormat format{module.width.bits, module.width.group_size, DType::kBF16};
    const auto found = input.mean_squares.find(module.path);
    const std::vector<float> weights =
        found == input.mean_squares.end() ? std::vector<float>{} : found->second.values;
    EXPECT_EQ(weights.empty(),
              module.path == "model.embed_tokens" || module.path == "model.layers.0.mlp.up_proj");
    const Expected expected(model.values.at(module.path + ".weight"), module.shape[1], format,
                            weights);
    EXPECT_EQ(stored(out, *module.weight), expected.codes) << module.path;
    EXPECT_EQ(stored(out, *module.scales), expected.scales) << module.path;
    EXPECT_EQ(stored(out, *module.biases), expected.biases) << module.path;
  }
  const Json& record = *out.jang_config->find("quantization");
  EXPECT_EQ(record.find("quantization_method")->as_string(), "mse");
  EXPECT_EQ(record.find("calibration_method")->as_string(),
            "some.safetensors sha256:" + std::string(64, 'c'));
  EXPECT_EQ(record.find("statistics")->find("modules")->as_uint64(), 7u);

  fs::create_directories(directory / "one");
  convert_directory(directory / "source", directory / "one", options_for("JANG_3M", input, 1), {});
  EXPECT_EQ(contents(directory / "out"), contents(directory / "one"));
}

TEST(ConvertStatistics, PartsOfARowSeeTheirOwnColumns) {
  const TemporaryDirectory directory;
  SourceModel model = model_of_long_rows();
  model.fill(52);
  const std::string path = "model.layers.0.mlp.down_proj";
  model.write(directory / "source");
  const std::vector<float> weights = importance(model.inner, 5);
  StatisticsInput input{{{path, {{model.inner}, weights}}}, "s", std::string(64, 'c')};
  ConvertOptions options = options_for("JANG_2L", input, 2);
  for (const char* pattern : {"*gate_proj", "*up_proj"})  // the search of these is of no interest
    options.plan.rules.push_back({pattern, std::nullopt, std::nullopt});
  fs::create_directories(directory / "out");
  convert_directory(directory / "source", directory / "out", options, {});
  const ModelDirectory out = open_model_directory(directory / "out");
  const QuantizedModule* module = out.find_module(path);
  ASSERT_NE(module, nullptr);
  const Expected expected(model.values.at(path + ".weight"), model.inner,
                          {module->width.bits, module->width.group_size, DType::kF32}, weights);
  EXPECT_EQ(stored(out, *module->weight), expected.codes);
  EXPECT_EQ(stored(out, *module->scales), expected.scales);
  EXPECT_EQ(stored(out, *module->biases), expected.biases);
}

TEST(ConvertStatistics, ExpertsHaveTheirOwnWeights) {
  const TemporaryDirectory directory;
  TinyModel tiny;
  tiny.experts = 4;
  tiny.layers = 1;
  tiny.model_type = "mixtral";
  tiny.fill(56);
  tiny.write(directory / "source");
  const PlannedSource planned = plan_directory(directory / "source", {}, false);
  std::string path;
  for (const PlannedTensor& tensor : planned.plan.tensors) {
    if (tensor.tensor.path.ends_with("gate_proj")) path = tensor.tensor.path;
  }
  const auto columns = static_cast<uint64_t>(tiny.hidden);
  const std::vector<float> weights = importance(4 * columns, 6);
  const StatisticsInput input{{{path, {{4, columns}, weights}}}, "s", std::string(64, 'c')};
  fs::create_directories(directory / "out");
  convert_directory(directory / "source", directory / "out", options_for("JANG_3M", input, 2), {});
  const ModelDirectory out = open_model_directory(directory / "out");
  const QuantizedModule* module = out.find_module(path);
  ASSERT_NE(module, nullptr);
  std::string codes, scales, biases;
  for (int64_t e = 0; e < 4; ++e) {
    const auto own = weights.begin() + e * tiny.hidden;
    const Expected expected(tiny.tensors.at(TinyModel::expert(0, e) + "w1.weight"), columns,
                            {module->width.bits, module->width.group_size, DType::kF32},
                            {own, own + tiny.hidden});
    codes += expected.codes;
    scales += expected.scales;
    biases += expected.biases;
  }
  EXPECT_EQ(stored(out, *module->weight), codes);
  EXPECT_EQ(stored(out, *module->scales), scales);
  EXPECT_EQ(stored(out, *module->biases), biases);
}

TEST(ConvertStatistics, VerifyHoldsTheBoundOfWeightedSearch) {
  for (const char* profile : {"uniform-2", "uniform-4", "uniform-8"}) {
    const TemporaryDirectory directory;
    SourceModel model;
    model.layers = 1;
    model.fill(53).write(directory / "source");
    fs::create_directories(directory / "out");
    convert_directory(directory / "source", directory / "out",
                      options_for(profile, statistics_of(model, 2.5f), 2), {});
    const Verification found = verify_directory(directory / "out", directory / "source", 2, {});
    for (const Fault& fault : found.faults) ADD_FAILURE() << fault.tensor << " " << fault.message;
    for (const TensorError& tensor : found.tensors) {
      EXPECT_LT(tensor.relative_rms, 0.7 * tensor.bound) << profile << " " << tensor.path;
    }
  }
}

TEST(ConvertStatistics, MeasuredLossesDecideTheWidths) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.layers = 1;
  model.fill(54).write(directory / "source");
  StatisticsInput input = statistics_of(model, 1.5f);
  const MeasuredLosses losses = measure_losses(directory / "source", input, {}, 2, {});
  PlanOptions options;
  options.target = SizeTarget{4.5, std::nullopt};
  const Plan prior = plan_directory(directory / "source", options, false).plan;
  EXPECT_FALSE(prior.allocation->measured);
  options.losses = losses;
  EXPECT_TRUE(plan_directory(directory / "source", options, false).plan.allocation->measured);
  // A matrix that costs nothing falls to its floor.
  for (CandidateLoss& candidate : options.losses.at("model.layers.0.mlp.down_proj").errors)
    candidate.error = 0;
  for (const PlannedTensor& planned :
       plan_directory(directory / "source", options, false).plan.tensors) {
    if (planned.tensor.path == "model.layers.0.mlp.down_proj") {
      EXPECT_EQ(planned.format->bits, 2);
    }
  }
}

TEST(ConvertStatistics, WhatDoesNotFitIsRefused) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.layers = 1;
  model.fill(55).write(directory / "source");
  StatisticsInput input = statistics_of(model, 1.0f);
  input.mean_squares.at("lm_head") = {{3}, {1, 1, 1}};
  fs::create_directories(directory / "out");
  try {
    convert_directory(directory / "source", directory / "out", options_for("JANG_3M", input, 1),
                      {});
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_EQ(error.tensor(), "lm_head");
    EXPECT_EQ(error.file(), "some.safetensors");
  }
}

}  // namespace
}  // namespace jang
