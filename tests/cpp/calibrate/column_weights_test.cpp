// Importance of columns: floors, experts that lean on their layer, embeddings, names and shapes;
// and losses of formats against quantizing the sampled rows directly.
#include "calibrate/column_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "arch/checkpoint_inventory.h"
#include "arch/directory.h"
#include "base/error.h"
#include "calibrate/candidate_losses.h"
#include "io/test_directory.h"
#include "model/tiny_model.h"
#include "quant/quantize.h"

namespace jang {
namespace {

FinalTensor matrix(const std::string& path, std::vector<uint64_t> shape, Role role) {
  FinalTensor tensor;
  tensor.name = path + ".weight";
  tensor.path = path;
  tensor.source = tensor.name;
  tensor.shape = std::move(shape);
  tensor.role.role = role;
  tensor.packable = true;
  return tensor;
}

TEST(ColumnWeights, HaveAFloorAndKeepRatios) {
  Inventory inventory;
  inventory.tensors = {matrix("a", {3, 4}, Role::kMlp)};
  std::vector<std::string> warnings;
  const ColumnWeights weights({{"a", {{4}, {0.0f, 2.0f, 4.0f, 1e-9f}}}}, inventory, "f", warnings);
  const auto row = weights.of(inventory.tensors[0], 2);
  EXPECT_EQ(std::vector<float>(row.begin(), row.end()),
            (std::vector<float>{2e-4f, 2.0f, 4.0f, 2e-4f}));
  EXPECT_TRUE(warnings.empty());
}

TEST(ColumnWeights, ExpertsHaveTheirOwn) {
  Inventory inventory;
  inventory.tensors = {matrix("e", {3, 2, 2}, Role::kExpert)};
  std::vector<std::string> warnings;
  const ColumnWeights weights({{"e", {{3, 2}, {1, 2, 0, 0, 5, 6}}}}, inventory, "f", warnings);
  EXPECT_EQ(ColumnWeights::block_rows(inventory.tensors[0]), 2u);
  const std::vector<std::vector<float>> expected = {{1, 2}, {1, 2}, {1, 1}, {1, 1}, {5, 6}, {5, 6}};
  for (uint64_t row = 0; row < expected.size(); ++row) {
    const auto found = weights.of(inventory.tensors[0], row);
    EXPECT_EQ(std::vector<float>(found.begin(), found.end()), expected[row]) << row;
  }
}

TEST(ColumnWeights, EmbeddingsCountOnlyAsHeads) {
  Inventory inventory;
  inventory.tensors = {matrix("embed", {5, 2}, Role::kEmbedding)};
  std::vector<std::string> warnings;
  const MeanSquaresByPath values = {{"embed", {{2}, {1.0f, 3.0f}}}};
  EXPECT_TRUE(ColumnWeights(values, inventory, "f", warnings).of(inventory.tensors[0], 0).empty());
  inventory.tied_head = true;
  const ColumnWeights tied(values, inventory, "f", warnings);
  const auto row = tied.of(inventory.tensors[0], 0);
  EXPECT_EQ(std::vector<float>(row.begin(), row.end()), (std::vector<float>{3.0f, 5.0f}));
  EXPECT_TRUE(warnings.empty());
}

TEST(ColumnWeights, NamesAndShapesAreJudged) {
  Inventory inventory;
  inventory.tensors = {matrix("a", {3, 2}, Role::kMlp), matrix("b", {3, 2}, Role::kMlp),
                       matrix("c", {3, 2}, Role::kMlp), matrix("r", {3, 2}, Role::kRouter)};
  std::vector<std::string> warnings;
  const ColumnWeights weights({{"a", {{2}, {1, 1}}}, {"c", {{2}, {0, 0}}}, {"z", {{2}, {1, 1}}}},
                              inventory, "f", warnings);
  EXPECT_EQ(weights.size(), 1u);
  EXPECT_TRUE(weights.of(inventory.tensors[1], 0).empty());
  EXPECT_TRUE(weights.of(inventory.tensors[2], 0).empty());
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("2 matrices (b, c)"), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("(z)"), std::string::npos) << warnings[1];

  const auto fails = [&](MeanSquaresByPath values, const std::string& part) {
    try {
      ColumnWeights(std::move(values), inventory, "file.x", warnings);
      ADD_FAILURE() << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kArgument);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      EXPECT_EQ(error.file(), "file.x");
    }
  };
  fails({{"a", {{3}, {1, 1, 1}}}}, "found [3]");
  fails({{"a", {{1, 2}, {1, 1}}}}, "found [1, 2]");
  fails({{"a", {{2}, {1, -1}}}}, "-1");
  fails({{"a", {{2}, {1, NAN}}}}, "nan");
  fails({{"z", {{2}, {1, 1}}}}, "that of z");
  fails({}, "found none");
}

class CandidateLosses : public testing_io::TestDirectory {};

TEST_F(CandidateLosses, AreThoseOfTheSampledRows) {
  TinyModel tiny;
  tiny.hidden = 128;
  tiny.inner = 384;
  tiny.layers = 1;
  tiny.fill(41);
  const std::string path = "model.layers.0.mlp.gate_proj";
  tiny.write(path_);
  const ModelDirectory directory = open_model_directory(path_);
  const Inventory inventory = inventory_of(directory.config, directory.checkpoint);
  std::vector<float> importance(128);
  for (std::size_t j = 0; j < importance.size(); ++j)
    importance[j] = std::exp(2.0f * std::sin(static_cast<float>(j)));
  std::vector<std::string> warnings;
  const ColumnWeights weights({{path, {{128}, importance}}}, inventory, "f", warnings);
  const auto measure = [&](int threads, const LossOptions& options) {
    ThreadPool pool(threads);
    return candidate_losses(directory.checkpoint, inventory, weights, options, pool, {});
  };
  const MeasuredLosses losses = measure(1, {});
  const MeasuredLosses again = measure(2, {});
  ASSERT_EQ(losses.size(), 9u);  // embedding, seven of the layer, head
  for (const auto& [name, loss] : losses) {
    EXPECT_FALSE(loss.sensitivity.has_value());
    ASSERT_EQ(loss.errors.size(), again.at(name).errors.size());
    for (std::size_t c = 0; c < loss.errors.size(); ++c)
      EXPECT_EQ(loss.errors[c].error, again.at(name).errors[c].error);
  }

  // 256 of 384 rows, spread evenly.
  const auto& source = tiny.tensors.at(path + ".weight");
  std::vector<float> rows;
  for (std::size_t i = 0; i < 256; ++i) {
    const auto row = source.begin() + static_cast<int64_t>(i * 384 / 256 * 128);
    rows.insert(rows.end(), row, row + 128);
  }
  const auto& errors = losses.at(path).errors;
  ASSERT_EQ(errors.size(), 11u);
  ThreadPool pool(1);
  double previous = 1;
  for (const CandidateLoss& candidate : errors) {
    const AffineFormat format{candidate.bits, candidate.group_size, DType::kF32};
    std::vector<std::byte> codes(256 * format.row_bytes(128)),
        scales(256 * format.row_groups(128) * 4), biases(scales.size());
    const SourcePanel panel{reinterpret_cast<const std::byte*>(rows.data()), DType::kF32, 256, 128};
    const AffinePanel out{codes.data(), scales.data(), biases.data()};
    quantize_matrix(panel, format, Method::kMse, out, pool, importance);
    std::vector<float> restored(rows.size());
    dequantize_matrix(out, format, 256, 128, restored.data(), pool);
    double error = 0, square = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double w = static_cast<double>(importance[i % 128]);
      error += w * std::pow(static_cast<double>(restored[i]) - static_cast<double>(rows[i]), 2);
      square += w * std::pow(static_cast<double>(rows[i]), 2);
    }
    EXPECT_NEAR(candidate.error, error / square, 1e-12);
    if (candidate.group_size == 128) {
      EXPECT_LT(candidate.error, previous);
      previous = candidate.error;
    }
  }
  LossOptions only;
  only.group_size = 32;
  const auto narrowed = measure(2, only).at(path).errors;
  ASSERT_EQ(narrowed.size(), 6u);
  for (const CandidateLoss& candidate : narrowed) EXPECT_EQ(candidate.group_size, 32);
}

}  // namespace
}  // namespace jang
