// MXFP4 values and their affine form at every scale, and parts that do not belong together.
#include "arch/mxfp4.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "arch/source_values.h"
#include "base/error.h"
#include "base/float16.h"
#include "io/safetensors_writer.h"
#include "io/test_directory.h"

namespace jang {
namespace {

using Mxfp4Test = testing_io::TestDirectory;
using Shape = std::vector<uint64_t>;

constexpr std::array<double, 8> kMagnitudes = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
constexpr uint64_t kExperts = 2, kRows = 128, kBlocks = 2;

/// [2, 128, 2, 16] whose block i has every code and, of the scales, the i-th from `first` on.
Checkpoint write(const std::filesystem::path& directory, int first) {
  std::vector<OutputTensor> tensors = {{"blocks", DType::kU8, {kExperts, kRows, kBlocks, 16}},
                                       {"scales", DType::kU8, {kExperts, kRows, kBlocks}}};
  SafetensorsWriter writer(directory / "model.safetensors", layout_safetensors(tensors));
  std::vector<uint8_t> blocks(kExperts * kRows * kBlocks * 16), scales(kExperts * kRows * kBlocks);
  for (std::size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<uint8_t>((i % 16) | ((i * 7 + i / 16) % 16) << 4);
  for (std::size_t i = 0; i < scales.size(); ++i)
    scales[i] = static_cast<uint8_t>((first + static_cast<int>(i)) % 253);
  for (std::size_t t = 0; t < 2; ++t) {
    const bool codes = writer.layout().tensors[t].name == "blocks";
    writer.write(t, 0, std::as_bytes(std::span(codes ? blocks : scales)));
  }
  writer.finish();
  return Checkpoint::open(directory);
}

double value(const Checkpoint& checkpoint, uint64_t row, uint64_t column) {
  const auto blocks = checkpoint.data(*checkpoint.find("blocks"));
  const auto scales = checkpoint.data(*checkpoint.find("scales"));
  const auto byte = static_cast<unsigned>(blocks[row * kBlocks * 16 + column / 2]);
  const unsigned code = column % 2 == 0 ? byte & 15u : byte >> 4;
  const auto scale = static_cast<int>(scales[row * kBlocks + column / 32]);
  return std::ldexp((code & 8u) != 0 ? -kMagnitudes[code & 7u] : kMagnitudes[code & 7u],
                    scale - 127);
}

TEST_F(Mxfp4Test, ValuesAreExactInBothForms) {
  const Checkpoint checkpoint = write(path_, 0);
  const Mxfp4Rows rows(checkpoint, *checkpoint.find("blocks"), *checkpoint.find("scales"));
  for (uint64_t row = 0; row < kExperts * kRows; ++row) {
    for (const uint64_t column : {0, 1, 31, 32, 40}) {
      const uint64_t columns = kBlocks * 32 - column;
      std::vector<uint16_t> words(columns);
      rows.values(row, column, columns, reinterpret_cast<std::byte*>(words.data()));
      for (uint64_t c = 0; c < columns; ++c) {
        ASSERT_EQ(static_cast<double>(bf16_to_float(words[c])), value(checkpoint, row, column + c))
            << row << " " << column + c;
      }
    }
    std::array<uint8_t, kBlocks * 20> codes{};
    std::array<uint16_t, kBlocks> scales{}, biases{};
    rows.affine(row, codes.data(), reinterpret_cast<uint8_t*>(scales.data()),
                reinterpret_cast<uint8_t*>(biases.data()));
    for (uint64_t c = 0; c < kBlocks * 32; ++c) {
      unsigned code = 0;
      for (uint64_t bit = 0; bit < 5; ++bit)
        code |= (codes[(5 * c + bit) / 8] >> ((5 * c + bit) % 8) & 1u) << bit;
      const double found = static_cast<double>(bf16_to_float(scales[c / 32])) * code +
                           static_cast<double>(bf16_to_float(biases[c / 32]));
      ASSERT_EQ(found, value(checkpoint, row, c)) << row << " " << c;
    }
  }
}

TEST_F(Mxfp4Test, RowsOfGateAndUpAreGatheredInTurn) {
  const Checkpoint checkpoint = write(path_, 100);
  FinalTensor tensor;
  tensor.name = "up";
  tensor.dtype = DType::kBF16;
  tensor.shape = {kExperts, kRows / 2, kBlocks * 32};
  tensor.scales = 1;
  for (uint64_t e = 0; e < kExperts; ++e) tensor.ranges.push_back({0, e * kRows + 1, kRows / 2, 2});
  std::vector<uint16_t> words(5 * 40);
  gather_values(checkpoint, tensor, kRows / 2 - 2, 5, 20, 40,
                reinterpret_cast<std::byte*>(words.data()));
  for (uint64_t r = 0; r < 5; ++r) {
    const uint64_t row = kRows / 2 - 2 + r;  // of all experts
    for (uint64_t c = 0; c < 40; ++c) {
      ASSERT_EQ(static_cast<double>(bf16_to_float(words[r * 40 + c])),
                value(checkpoint, 2 * row + 1, 20 + c));
    }
  }
  // Codes and scales of these rows, those between included, in two runs for each expert.
  uint64_t codes = 0, scales = 0, runs = 0;
  for_each_run(checkpoint, tensor, kRows / 2 - 2, 5, 20, 40,
               [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                 EXPECT_LE(offset + bytes, source.bytes());
                 (source.name == "blocks" ? codes : scales) += bytes;
                 ++runs;
               });
  EXPECT_EQ(runs, 4u);
  EXPECT_EQ(codes, (3u + 5u) * kBlocks * 16);
  EXPECT_EQ(scales, (3u + 5u) * kBlocks);
}

TEST_F(Mxfp4Test, ScalesWithoutNumbersAreRefused) {
  for (const int bad : {253, 254, 255}) {
    const std::filesystem::path folder = path_ / std::to_string(bad);
    std::filesystem::create_directory(folder);
    {
      SafetensorsWriter writer(
          folder / "model.safetensors",
          layout_safetensors(std::vector<OutputTensor>{{"blocks", DType::kU8, {1, 2, 1, 16}},
                                                       {"scales", DType::kU8, {1, 2, 1}}}));
      const std::vector<uint8_t> blocks(32, 0x11), scales = {127, static_cast<uint8_t>(bad)};
      for (std::size_t t = 0; t < 2; ++t) {
        const bool codes = writer.layout().tensors[t].name == "blocks";
        writer.write(t, 0, std::as_bytes(std::span(codes ? blocks : scales)));
      }
      writer.finish();
    }
    const Checkpoint checkpoint = Checkpoint::open(folder);
    const Mxfp4Rows rows(checkpoint, *checkpoint.find("blocks"), *checkpoint.find("scales"));
    std::array<std::byte, 64> values{};
    std::array<uint8_t, 64> codes{};
    EXPECT_NO_THROW(rows.values(0, 0, 32, values.data()));
    for (const bool affine : {false, true}) {
      try {
        if (affine) {
          rows.affine(1, codes.data(), codes.data() + 32, codes.data() + 48);
        } else {
          rows.values(1, 0, 32, values.data());
        }
        FAIL() << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
        EXPECT_EQ(error.tensor(), "scales");
        EXPECT_NE(error.message().find("row 1, block 0"), std::string::npos);
        EXPECT_NE(error.message().find("found " + std::to_string(bad)), std::string::npos);
      }
    }
  }
}

ModelConfig config(const std::string& more) {
  return ModelConfig::parse(R"({"model_type": "gpt_oss", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 1)" +
                                more + "}",
                            "config.json");
}

TEST(Mxfp4, IsWhatTheConfigSays) {
  EXPECT_FALSE(is_mxfp4(config("")));
  EXPECT_TRUE(is_mxfp4(config(R"(, "quantization_config": {"quant_method": "mxfp4"})")));
  EXPECT_FALSE(is_mxfp4(config(R"(, "quantization_config": {"quant_method": "fp8"})")));
  EXPECT_FALSE(is_mxfp4(config(R"(, "quantization_config": {})")));
  EXPECT_THROW(is_mxfp4(config(R"(, "quantization_config": [])")), Error);
  const ModelConfig llama = ModelConfig::parse(
      R"({"model_type": "llama", "quantization_config": {"quant_method": "mxfp4"}})",
      "config.json");
  EXPECT_FALSE(is_mxfp4(llama));
}

TEST(Mxfp4, PartsAreFoundByName) {
  const ModelConfig source = config("");
  const std::vector<SourceTensor> sources = {
      {"model.layers.0.mlp.experts.down_proj_blocks", DType::kU8, {4, 64, 3, 16}},
      {"model.layers.0.mlp.experts.down_proj_scales", DType::kU8, {4, 64, 3}},
      {"model.layers.0.mlp.experts.gate_up_proj_blocks", DType::kU8, {4, 192, 2, 16}},
      {"model.layers.0.mlp.experts.gate_up_proj_scales", DType::kU8, {4, 192, 2}},
      {"model.norm.weight", DType::kBF16, {64}}};
  const Mxfp4Splitter splitter(source, sources);
  const auto down = splitter.split(0), scales = splitter.split(1), both = splitter.split(2);
  ASSERT_TRUE(down && scales && both && splitter.split(3));
  EXPECT_FALSE(splitter.split(4));
  EXPECT_TRUE(scales->empty());
  ASSERT_EQ(down->size(), 1u);
  EXPECT_EQ(down->front().name, "model.layers.0.mlp.experts.down_proj.weight");
  EXPECT_EQ(down->front().shape, (Shape{4, 64, 96}));
  EXPECT_EQ(down->front().dtype, DType::kBF16);
  EXPECT_EQ(down->front().scales, std::optional<uint32_t>(1));
  ASSERT_EQ(both->size(), 2u);
  const FinalTensor& up = both->back();
  EXPECT_EQ(up.name, "model.layers.0.mlp.experts.up_proj.weight");
  EXPECT_EQ(up.shape, (Shape{4, 96, 64}));
  EXPECT_EQ(up.ranges[2].row_begin, 2u * 192u + 1u);
  EXPECT_EQ(up.ranges[2].rows, 96u);
  EXPECT_EQ(up.ranges[2].step, 2u);
  const SourceRow at = locate_row(up, 96 + 5);
  EXPECT_EQ(at.row, 192u + 1u + 10u);
  EXPECT_EQ(at.available, 91u);
  EXPECT_EQ(at.step, 2u);
}

/// The error of splitting `name`, whose blocks and scales have these shapes; no tensor where a
/// shape is empty.
Error failure(const std::string& name, const Shape& blocks, const Shape& scales,
              DType dtype = DType::kU8) {
  const ModelConfig source = config("");
  std::vector<SourceTensor> sources;
  const std::string base = "model.layers.0.mlp.experts." + name;
  if (!blocks.empty()) sources.push_back({base + "_blocks", DType::kU8, blocks});
  if (!scales.empty()) sources.push_back({base + "_scales", dtype, scales});
  const Mxfp4Splitter splitter(source, sources);
  try {
    for (uint32_t i = 0; i < sources.size(); ++i) (void)splitter.split(i);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << name << ": nothing was refused";
  return Error(ErrorCode::kIo, "none");
}

TEST(Mxfp4, PartsThatDoNotBelongTogetherAreRefused) {
  const auto expect = [](const Error& error, ErrorCode code, const std::string& suffix) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_TRUE(error.tensor().ends_with(suffix)) << error.what();
  };
  expect(failure("down_proj", {4, 64, 3, 16}, {}), ErrorCode::kMissingTensor, "_scales");
  expect(failure("down_proj", {}, {4, 64, 3}), ErrorCode::kMissingTensor, "_blocks");
  for (const Shape& bad :
       {Shape{4, 64, 2, 16}, Shape{4, 64, 3, 32}, Shape{4, 64, 48}, Shape{}, Shape{4, 64, 3, 16, 1},
        Shape{4, 64, 0, 16}, Shape{4, 64, uint64_t{3} + (uint64_t{1} << 59), 16}}) {
    if (bad.empty()) continue;
    expect(failure("down_proj", bad, {4, 64, 3}), ErrorCode::kTensorShape, "_blocks");
  }
  expect(failure("gate_up_proj", {4, 191, 2, 16}, {4, 191, 2}), ErrorCode::kTensorShape, "_blocks");
  for (const Shape& bad : {Shape{4, 64, 2}, Shape{4, 64}, Shape{3, 64, 3}, Shape{4, 64, 3, 1}})
    expect(failure("down_proj", {4, 64, 3, 16}, bad), ErrorCode::kTensorShape, "_scales");
  expect(failure("down_proj", {4, 64, 3, 16}, {4, 64, 3}, DType::kI8),
         ErrorCode::kUnsupportedFormat, "_scales");
}

}  // namespace
}  // namespace jang
