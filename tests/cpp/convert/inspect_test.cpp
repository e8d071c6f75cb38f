// What inspection reports of each format agrees with what was written.
#include "convert/inspect.h"

#include <gtest/gtest.h>

#include <numeric>

#include "convert/convert.h"
#include "convert/source_model.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

uint64_t parameters_of(const SourceModel& model) {
  uint64_t count = 0;
  for (const auto& [name, values] : model.values) count += values.size();
  return count;
}

uint64_t sum_weights(const Inspection& found) {
  return std::accumulate(found.roles.begin(), found.roles.end(), uint64_t{0},
                         [](uint64_t sum, const RoleRow& row) { return sum + row.weights; });
}

TEST(Inspect, WrittenDirectoryMatchesItsPlan) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(31).write(directory / "source");
  fs::create_directories(directory / "out");
  ConvertOptions options;
  options.plan.profile = "JANG_3M";
  options.method = Method::kRtn;
  options.generator_version = "1.0";
  const ConvertReport report =
      convert_directory(directory / "source", directory / "out", options, {});
  const Inspection found = inspect_directory(directory / "out");
  EXPECT_EQ(found.format, "jang");
  EXPECT_EQ(found.model_type, "llama");
  EXPECT_EQ(found.profile, "JANG_3M");
  EXPECT_EQ(found.method, "rtn");
  EXPECT_EQ(found.parameters, parameters_of(model));
  EXPECT_EQ(found.bytes, report.file_bytes);
  EXPECT_DOUBLE_EQ(found.average_bits, report.plan.average_bits);
  EXPECT_DOUBLE_EQ(found.bits_per_weight, report.plan.bits_per_weight);
  EXPECT_EQ(sum_weights(found), found.parameters);
  ASSERT_EQ(found.tensors.size(), model.shapes.size());
  for (const InspectedTensor& tensor : found.tensors) {
    if (tensor.name != "model.layers.0.mlp.down_proj") continue;
    EXPECT_EQ(tensor.bits, 3);
    EXPECT_EQ(tensor.group_size, 64);
    EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{128, 192}));
    EXPECT_EQ(tensor.bytes, 128u * (192 * 3 / 8 + 3 * 4));
    EXPECT_EQ(tensor.dtype, "U32");
  }
}

TEST(Inspect, PlainDirectory) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.dtype = DType::kF16;
  model.shards = 2;
  model.fill(32).write(directory / "source");
  const Inspection found = inspect_directory(directory / "source");
  EXPECT_EQ(found.format, "hf");
  EXPECT_FALSE(found.profile);
  EXPECT_FALSE(found.method);
  EXPECT_EQ(found.average_bits, 16);
  EXPECT_EQ(found.parameters, parameters_of(model));
  EXPECT_EQ(found.tensors.front().dtype, "F16");
  EXPECT_FALSE(found.tensors.front().bits);
}

TEST(Inspect, StockMlxDirectory) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(33).write(directory / "source");
  fs::create_directories(directory / "out");
  ConvertOptions options;
  options.plan.profile = "uniform-4";
  options.method = Method::kRtn;
  options.generator_version = "1.0";
  convert_directory(directory / "source", directory / "out", options, {});
  fs::remove(directory / "out" / "jang_config.json");
  const Inspection found = inspect_directory(directory / "out");
  EXPECT_EQ(found.format, "mlx");
  EXPECT_FALSE(found.profile);
  EXPECT_EQ(found.average_bits, 4);
}

TEST(Inspect, JangV1Headers) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "v1";
  SourceModel model;
  model.fill(34);
  fs::create_directories(path);
  write_file(path / "config.json", model.config());
  write_file(path / "jang_config.json",
             R"({"format": "jang", "format_version": "1.1", "quantization": {"block_size": 64,)"
             R"( "profile": "JANG_4L", "quantization_method": "rtn"}})");
  const std::string base = "model.layers.0.mlp.up_proj.";
  // 192 x 128 weights of 4 bits in blocks of 64.
  const std::vector<OutputTensor> tensors = {{base + "qweight", DType::kU8, {192 * 128 / 2}},
                                             {base + "scales", DType::kF16, {384}},
                                             {base + "zeros", DType::kF16, {384}},
                                             {base + "bits", DType::kU8, {1}},
                                             {base + "shape", DType::kI64, {2}},
                                             {"model.norm.weight", DType::kF16, {128}}};
  SafetensorsWriter writer(path / "model-00001-of-00001.jang.safetensors",
                           layout_safetensors(tensors));
  writer.finish();
  const Inspection found = inspect_directory(path);
  EXPECT_EQ(found.format, "jang-v1");
  EXPECT_EQ(found.profile, "JANG_4L");
  EXPECT_EQ(found.average_bits, 4);
  EXPECT_EQ(found.parameters, 192u * 128 + 128);
  ASSERT_EQ(found.tensors.size(), 2u);
  EXPECT_EQ(found.tensors[0].name, "model.layers.0.mlp.up_proj");
  EXPECT_EQ(found.tensors[0].bits, 4);
  EXPECT_EQ(found.tensors[0].group_size, 64);
  EXPECT_EQ(found.tensors[0].bytes, 192u * 128 / 2 + 2 * 384 * 2 + 1 + 16);
}

}  // namespace
}  // namespace jang
