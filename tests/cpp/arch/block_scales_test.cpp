// Codes and scales: what config.json may say of them, which tensors fit, and every value of written
// checkpoints against a product computed where the definition says its scale lies.
#include "arch/block_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "arch/source_values.h"
#include "base/error.h"
#include "base/float16.h"
#include "io/safetensors_writer.h"
#include "io/test_directory.h"

namespace jang {
namespace {

using BlockScalesTest = testing_io::TestDirectory;

ModelConfig config_with(const std::string& settings) {
  return ModelConfig::parse(
      R"({"model_type": "llama", "num_hidden_layers": 1, "quantization_config": {)" + settings +
          "}}",
      "config.json");
}

constexpr const char* kFp8 = R"("quant_method": "fp8")";

std::optional<ScaleBlocks> blocks_of(const std::string& more) {
  return stated_blocks(config_with(std::string(kFp8) + more));
}

Error refusal(const std::string& more) {
  try {
    blocks_of(more);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "accepted: " << more;
  return Error(ErrorCode::kArgument, "");
}

TEST(StatedBlocks, AreReadAsTheyStand) {
  const auto blocks = blocks_of(
      R"(, "weight_block_size": [128, 64], "fmt": "e4m3", "activation_scheme": "dynamic",
          "modules_to_not_convert": ["lm_head"], "scale_fmt": "ue8m0")");
  ASSERT_TRUE(blocks);
  EXPECT_EQ(blocks->rows, 128u);
  EXPECT_EQ(blocks->columns, 64u);
  EXPECT_TRUE(blocks_of(R"(, "weight_block_size": [1, 16777216])"));
  EXPECT_FALSE(stated_blocks(config_with(R"("quant_method": "awq", "weight_block_size": [8, 8])")));
  EXPECT_FALSE(stated_blocks(config_with(R"("weight_block_size": [8, 8])")));
}

TEST(StatedBlocks, OtherKindsAreRefusedByName) {
  const std::string sized = R"(, "weight_block_size": [128, 128])";
  const std::pair<std::string, std::string> kOthers[] = {
      {"", "weight_block_size"},
      {R"(, "weight_block_size": null)", "weight_block_size"},
      {sized + R"(, "fmt": "e5m2")", "e5m2"},
      {sized + R"(, "activation_scheme": "static")", "static"},
      {sized + R"(, "activation_scheme": 7)", "7"},
      {sized + R"(, "expert_dtype": "fp4")", "fp4"},
  };
  for (const auto& [settings, word] : kOthers) {
    const Error error = refusal(settings);
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat) << settings;
    EXPECT_NE(error.message().find(word), std::string::npos) << error.message();
  }
  for (const char* size : {"[0, 128]", "[128, 0]", "[-1, 128]", "[128]", "[1, 2, 3]", "128", "{}",
                           "[1.5, 2]", "[\"1\", 2]", "[16777217, 1]", "[1, 1e30]", "[null, 1]"}) {
    EXPECT_EQ(refusal(std::string(", \"weight_block_size\": ") + size).code(),
              ErrorCode::kConfigValue)
        << size;
  }
}

ErrorCode pair_fault(std::vector<SourceTensor> sources, ScaleBlocks blocks = {4, 8}) {
  const ModelConfig config = config_with(kFp8);
  try {
    check_block_scales(config, sources, blocks);
  } catch (const Error& error) {
    EXPECT_FALSE(error.tensor().empty()) << error.what();
    return error.code();
  }
  return ErrorCode::kArgument;
}

TEST(CheckBlockScales, EveryTensorOfCodesHasItsScales) {
  const SourceTensor codes{"a.weight", DType::kF8E4M3, {9, 17}};
  const SourceTensor scales{"a.weight_scale_inv", DType::kF32, {3, 3}};
  EXPECT_EQ(pair_fault({codes, scales}), ErrorCode::kArgument);
  EXPECT_EQ(pair_fault({codes, {scales.name, DType::kBF16, {3, 3}}}), ErrorCode::kArgument);
  EXPECT_EQ(pair_fault({{"s", DType::kF8E4M3, {5, 8, 8}}, {"s_scale_inv", DType::kF32, {5, 2, 1}}}),
            ErrorCode::kArgument);
  EXPECT_EQ(pair_fault({codes}), ErrorCode::kMissingTensor);
  EXPECT_EQ(pair_fault({scales}), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(pair_fault({{"a.weight", DType::kBF16, {9, 17}}, scales}),
            ErrorCode::kUnsupportedFormat);
  for (const std::vector<uint64_t>& shape :
       std::vector<std::vector<uint64_t>>{{3, 2}, {2, 3}, {3, 4}, {9}, {1, 3, 3}, {}, {3, 0}}) {
    EXPECT_EQ(pair_fault({codes, {scales.name, DType::kF32, shape}}), ErrorCode::kTripleShape);
  }
  for (const DType dtype : {DType::kF16, DType::kI32, DType::kU8, DType::kF8E4M3}) {
    EXPECT_NE(pair_fault({codes, {scales.name, dtype, {3, 3}}}), ErrorCode::kArgument);
  }
  EXPECT_EQ(pair_fault({{"n", DType::kF8E4M3, {9}}, {"n_scale_inv", DType::kF32, {3}}}),
            ErrorCode::kTripleShape);
  // What is dropped need not fit: layer 1 of a model with one layer.
  EXPECT_EQ(pair_fault({{"model.layers.1.a.weight", DType::kF8E4M3, {9, 17}}}),
            ErrorCode::kArgument);
}

TEST(CheckBlockScales, HalvesOfAStackEndWithABlock) {
  const std::string name = "mlp.experts.gate_up_proj";
  const auto fault = [&](uint64_t rows, uint64_t scale_rows) {
    return pair_fault({{name, DType::kF8E4M3, {2, rows, 8}},
                       {scales_name(name), DType::kF32, {2, scale_rows, 1}}});
  };
  EXPECT_EQ(fault(16, 4), ErrorCode::kArgument);
  EXPECT_EQ(fault(12, 3), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(fault(12, 4), ErrorCode::kUnsupportedFormat);
}

TEST(CheckBlockScales, WithoutStatedBlocksThereAreNoCodes) {
  const ModelConfig config = config_with("");
  const std::vector<SourceTensor> codes = {{"a.weight", DType::kF8E4M3, {9, 17}},
                                           {"a.weight_scale_inv", DType::kF32, {3, 3}}};
  EXPECT_THROW(check_block_scales(config, codes, std::nullopt), Error);
  EXPECT_THROW(check_block_scales(config, std::span(codes).subspan(1), std::nullopt), Error);
  const std::vector<SourceTensor> plain = {{"a.weight", DType::kBF16, {9, 17}}};
  EXPECT_NO_THROW(check_block_scales(config, plain, std::nullopt));
}

constexpr uint64_t kStack = 2, kRows = 9, kColumns = 21;
constexpr ScaleBlocks kBlocks{4, 8};  // partial at both ends
constexpr uint64_t kScaleRows = 3, kScaleColumns = 3;

uint8_t code_at(uint64_t index) { return static_cast<uint8_t>(index * 37 % 251 % 127); }
float scale_at(uint64_t index) { return 0.5f + 0.125f * static_cast<float>(index); }

/// From the definition alone: the bits of the code, the block of its place.
float expected_at(uint64_t row, uint64_t column) {
  const uint8_t code = code_at(row * kColumns + column);
  const int exponent = code / 8, mantissa = code % 8;
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  const uint64_t matrix = row / kRows;
  const uint64_t block = (matrix * kScaleRows + row % kRows / 4) * kScaleColumns + column / 8;
  return static_cast<float>(value * static_cast<double>(scale_at(block)));
}

Checkpoint write_stack(const std::filesystem::path& directory, DType scale_dtype) {
  SafetensorsWriter writer(
      directory / "model.safetensors",
      layout_safetensors({{"s", DType::kF8E4M3, {kStack, kRows, kColumns}},
                          {"s_scale_inv", scale_dtype, {kStack, kScaleRows, kScaleColumns}}}));
  for (std::size_t t = 0; t < 2; ++t) {
    std::vector<std::byte> bytes;
    const auto append = [&](const auto& value) {
      const auto* first = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), first, first + sizeof value);
    };
    const bool codes = writer.layout().tensors[t].name == "s";
    const uint64_t count = kStack * (codes ? kRows * kColumns : kScaleRows * kScaleColumns);
    for (uint64_t i = 0; i < count; ++i) {
      if (codes) {
        append(code_at(i));
      } else if (scale_dtype == DType::kF32) {
        append(scale_at(i));
      } else {
        append(float_to_bf16(scale_at(i)));
      }
    }
    writer.write(t, 0, bytes);
  }
  writer.finish();
  return Checkpoint::open(directory);
}

float float_at(const std::vector<std::byte>& bytes, uint64_t index) {
  float value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

TEST_F(BlockScalesTest, ValuesAreCodesTimesTheScalesOfTheirBlocks) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::filesystem::path folder = path_ / std::string(dtype_name(dtype));
    std::filesystem::create_directory(folder);
    const Checkpoint checkpoint = write_stack(folder, dtype);
    FinalTensor whole;
    whole.name = "whole";
    whole.dtype = DType::kF32;
    whole.blocks = kBlocks;
    whole.shape = {kStack, kRows, kColumns};
    whole.ranges = {{0, 0, kStack * kRows}};
    EXPECT_EQ(whole.bytes(), kStack * kRows * kColumns);
    FinalTensor part = whole;  // rows that begin inside a block
    part.name = "part";
    part.shape = {kStack, 4, kColumns};
    part.ranges = {{0, 3, 4}, {0, kRows + 3, 4}};
    FinalTensor turned = part;
    turned.name = "turned";
    turned.shape = {kStack, kColumns, 4};
    turned.transposed.emplace();
    for (const FinalTensor* tensor : {&whole, &part, &turned}) {
      const uint64_t all = tensor->elements() / tensor->columns();
      for (const uint64_t column : {0, 1, 3}) {
        const uint64_t columns = tensor->columns() - column;
        std::vector<std::byte> bytes(all * columns * sizeof(float));
        gather_values(checkpoint, *tensor, 0, all, column, columns, bytes.data());
        for (uint64_t r = 0; r < all; ++r) {
          for (uint64_t c = 0; c < columns; ++c) {
            const SourceValue at = locate_value(*tensor, r, column + c);
            ASSERT_EQ(float_at(bytes, r * columns + c), expected_at(at.row, at.column))
                << tensor->name << " " << r << " " << column + c;
          }
        }
      }
    }
    uint64_t bytes = 0;  // runs are those of the codes
    for_each_run(checkpoint, whole, 0, kStack * kRows, 0, kColumns,
                 [&](const CheckpointTensor& source, uint64_t, uint64_t count) {
                   EXPECT_EQ(source.name, "s");
                   bytes += count;
                 });
    EXPECT_EQ(bytes, whole.bytes());
  }
}

}  // namespace
}  // namespace jang
