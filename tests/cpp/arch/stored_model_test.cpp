// Quantized directories taken apart: JANG v1 seen as v2, what lies in the map and what is made, and
// maps of widths that the tensors contradict.
#include "arch/stored_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/float16.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

using Shape = std::vector<uint64_t>;
using Bytes = std::vector<uint8_t>;

std::string llama(uint64_t inner = 96) {
  return R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 10, "tie_word_embeddings": true,
    "intermediate_size": )" +
         std::to_string(inner) + "}";
}

/// Shapes of that model's matrices.
const std::map<std::string, Shape> kMatrices = {
    {"model.embed_tokens", {10, 64}},
    {"model.layers.0.self_attn.q_proj", {64, 64}},
    {"model.layers.0.self_attn.k_proj", {64, 64}},
    {"model.layers.0.self_attn.v_proj", {64, 64}},
    {"model.layers.0.self_attn.o_proj", {64, 64}},
    {"model.layers.0.mlp.gate_proj", {96, 64}},
    {"model.layers.0.mlp.up_proj", {96, 64}},
    {"model.layers.0.mlp.down_proj", {64, 96}},
};
const std::string kDown = "model.layers.0.mlp.down_proj";

uint64_t product(const Shape& shape) {
  uint64_t n = 1;
  for (const uint64_t d : shape) n *= d;
  return n;
}

template <typename T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

class StoredModelTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ =
        fs::path(testing::TempDir()) /
        ("stored_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(root_);
    fs::create_directories(root_);
    write("config.json", llama());
    write("jang_config.json",
          R"({"format": "jang", "format_version": "1.1", "quantization": {"block_size": 32}})");
    for (const char* norm : {"model.norm", "model.layers.0.input_layernorm",
                             "model.layers.0.post_attention_layernorm"}) {
      put(std::string(norm) + ".weight", DType::kF16, {64}, Bytes(128, 0x3c));
    }
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& name, const std::string& text) {
    fs::remove(root_ / name);
    std::ofstream(root_ / name) << text;
  }
  void put(const std::string& name, DType dtype, Shape shape, Bytes payload) {
    tensors_[name] = {{name, dtype, std::move(shape)}, std::move(payload)};
  }
  void put_half(const std::string& name, const Shape& shape, float value) {
    put(name, DType::kF16, shape,
        bytes_of(std::vector<uint16_t>(product(shape), float_to_half(value))));
  }
  /// A v1 module whose code bytes count up from `seed`.
  void module(const std::string& path, const Shape& shape, int bits, float offset, bool zero_points,
              uint8_t seed = 0) {
    const uint64_t weights = product(shape), blocks = weights / 32;
    Bytes codes(weights * static_cast<uint64_t>(bits) / 8);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(seed + i);
    put(path + ".qweight", DType::kU8, {codes.size()}, codes);
    put_half(path + ".scales", {blocks}, 0.25f);
    put_half(path + (zero_points ? ".zeros" : ".biases"), {blocks}, offset);
    put(path + ".bits", DType::kU8, {1}, {static_cast<uint8_t>(bits)});
    put(path + ".shape", DType::kI64, {shape.size()},
        bytes_of(std::vector<int64_t>(shape.begin(), shape.end())));
  }
  void modules(float offset, bool zero_points) {
    for (const auto& [path, shape] : kMatrices) module(path, shape, 4, offset, zero_points);
  }

  ModelDirectory open(MapReading map = MapReading::kStrict) {
    const char* file = "model.safetensors";
    fs::remove(root_ / file);
    std::vector<OutputTensor> outputs;
    for (const auto& [name, tensor] : tensors_) outputs.push_back(tensor.first);
    SafetensorsWriter writer(root_ / file, layout_safetensors(std::move(outputs)));
    for (std::size_t i = 0; i < writer.layout().tensors.size(); ++i) {
      const Bytes& payload = tensors_.at(writer.layout().tensors[i].name).second;
      writer.write(i, 0, std::as_bytes(std::span(payload)));
    }
    writer.finish();
    return open_model_directory(root_, Checkpoint::Access::kMapped, map);
  }
  ModelDirectory presented() {
    ModelDirectory directory = open();
    present_v1(directory);
    return directory;
  }
  Error error() {
    try {
      presented();
    } catch (const Error& found) {
      return found;
    }
    ADD_FAILURE() << "accepted";
    return Error(ErrorCode::kIo, "accepted");
  }

  fs::path root_;
  std::map<std::string, std::pair<OutputTensor, Bytes>> tensors_;
};

Bytes payload(const ModelDirectory& directory, const CheckpointTensor& tensor) {
  const auto data = directory.checkpoint.data(tensor);
  const auto* begin = reinterpret_cast<const uint8_t*>(data.data());
  return {begin, begin + data.size()};
}

TEST_F(StoredModelTest, BiasesStayInTheMap) {
  modules(-1.5f, false);
  const ModelDirectory directory = presented();
  EXPECT_EQ(directory.format, DirectoryFormat::kJangV1);
  ASSERT_EQ(directory.modules.size(), kMatrices.size());
  EXPECT_EQ(directory.checkpoint.files().size(), 1u);  // nothing was made
  const QuantizedModule* module = directory.find_module(kDown);
  ASSERT_NE(module, nullptr);
  EXPECT_EQ(module->shape, (Shape{64, 96}));
  EXPECT_EQ(module->width, (WidthEntry{4, 32}));
  EXPECT_EQ(module->weight->dtype, DType::kU32);
  EXPECT_EQ(module->weight->shape, (Shape{64, 12}));
  EXPECT_EQ(module->scales->shape, (Shape{64, 3}));
  EXPECT_EQ(payload(directory, *module->weight), tensors_.at(kDown + ".qweight").second);
  EXPECT_EQ(payload(directory, *module->biases), tensors_.at(kDown + ".biases").second);
  EXPECT_NE(directory.checkpoint.find("model.norm.weight"), nullptr);
  EXPECT_EQ(directory.checkpoint.find(kDown + ".shape"), nullptr);
}

TEST_F(StoredModelTest, ZeroPointsBecomeBiasesInF16IfThatHoldsThem) {
  modules(3, true);
  const ModelDirectory directory = presented();
  const QuantizedModule* module = directory.find_module(kDown);
  EXPECT_EQ(module->scales->dtype, DType::kF16);
  EXPECT_EQ(payload(directory, *module->biases),
            bytes_of(std::vector<uint16_t>(192, float_to_half(-0.75f))));
  EXPECT_EQ(payload(directory, *module->weight), tensors_.at(kDown + ".qweight").second);
  EXPECT_EQ(directory.checkpoint.files()[module->biases->file], "model.safetensors");
}

TEST_F(StoredModelTest, AndInF32Otherwise) {
  modules(3, true);
  // One block of many: (1 + 2^-10)^2 has 21 digits.
  const uint16_t odd = float_to_half(1 + 0x1p-10f);
  for (const char* part : {".scales", ".zeros"})
    std::memcpy(&tensors_.at(kDown + part).second[2 * 191], &odd, sizeof odd);
  const ModelDirectory directory = presented();
  const QuantizedModule* module = directory.find_module(kDown);
  EXPECT_EQ(module->scales->dtype, DType::kF32);
  EXPECT_EQ(module->biases->dtype, DType::kF32);
  std::vector<float> expected(192, -0.75f);
  expected.back() = -(1 + 0x1p-10f) * (1 + 0x1p-10f);
  EXPECT_EQ(payload(directory, *module->biases), bytes_of(expected));
  EXPECT_EQ(directory.find_module("model.embed_tokens")->scales->dtype, DType::kF16);
}

TEST_F(StoredModelTest, ExpertsOfSeveralWidthsTakeTheWidest) {
  const std::string config =
      R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "head_dim": 32,
          "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 10, "num_experts": 2,
          "num_experts_per_tok": 1, "moe_intermediate_size": 32, "intermediate_size": 64,
          "norm_topk_prob": true, "tie_word_embeddings": true})";
  write("config.json", config);
  const std::string block = "model.layers.0.mlp.";
  for (const auto& [path, shape] : kMatrices)
    if (path.find(".mlp.") == std::string::npos) module(path, shape, 4, 0, false);
  for (const char* norm : {"q_norm", "k_norm"})
    put_half(std::string("model.layers.0.self_attn.") + norm + ".weight", {32}, 1);
  put_half(block + "gate.weight", {2, 64}, 1);
  for (const std::string expert : {"experts.0.", "experts.1."}) {
    module(block + expert + "gate_proj", {32, 64}, 4, 0, false, expert == "experts.0." ? 1 : 2);
    module(block + expert + "up_proj", {32, 64}, expert == "experts.0." ? 2 : 8, 0, false, 3);
    module(block + expert + "down_proj", {64, 32}, 4, 0, false);
  }
  const ModelDirectory directory = presented();
  const QuantizedModule* gate = directory.find_module(block + "switch_mlp.gate_proj");
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->shape, (Shape{2, 32, 64}));
  Bytes joined = tensors_.at(block + "experts.0.gate_proj.qweight").second;
  const Bytes& second = tensors_.at(block + "experts.1.gate_proj.qweight").second;
  joined.insert(joined.end(), second.begin(), second.end());
  EXPECT_EQ(payload(directory, *gate->weight), joined);
  const QuantizedModule* up = directory.find_module(block + "switch_mlp.up_proj");
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->width, (WidthEntry{8, 32}));
  Bytes wide;  // four codes a byte become a byte each
  for (const uint8_t byte : tensors_.at(block + "experts.0.up_proj.qweight").second)
    for (int k = 0; k < 4; ++k) wide.push_back(byte >> (2 * k) & 3);
  const Bytes& eight = tensors_.at(block + "experts.1.up_proj.qweight").second;
  wide.insert(wide.end(), eight.begin(), eight.end());
  EXPECT_EQ(payload(directory, *up->weight), wide);
}

TEST_F(StoredModelTest, EqualHeadsAreTiedAndOthersStay) {
  modules(0, false);
  module("lm_head", {10, 64}, 4, 0, false);
  EXPECT_EQ(presented().find_module("lm_head"), nullptr);
  EXPECT_TRUE(directory_spec(presented()).head.tied);
  module("lm_head", {10, 64}, 4, 0, false, 9);
  const ModelDirectory directory = presented();
  EXPECT_NE(directory.find_module("lm_head"), nullptr);
  EXPECT_FALSE(directory_spec(directory).head.tied);
}

TEST_F(StoredModelTest, WidthsOfBlocks) {
  modules(1, true);
  const uint64_t blocks = 192;
  for (const auto& [path, shape] : kMatrices) {
    tensors_.erase(path + ".bits");
    tensors_.erase(path + ".shape");
    const uint64_t count = product(shape) / 32;
    std::vector<uint32_t> offsets(count);
    for (uint64_t k = 0; k < count; ++k) offsets[k] = static_cast<uint32_t>(16 * k);
    put(path + ".bit_map", DType::kU8, {count}, Bytes(count, 4));
    put(path + ".block_offsets", DType::kU32, {count}, bytes_of(offsets));
  }
  EXPECT_EQ(presented().find_module(kDown)->shape, (Shape{64, 96}));  // by the architecture
  tensors_.at(kDown + ".bit_map").second[blocks - 1] = 3;
  EXPECT_EQ(error().code(), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(error().tensor(), kDown + ".bit_map");
  tensors_.at(kDown + ".bit_map").second[blocks - 1] = 4;
  tensors_.at(kDown + ".block_offsets").second[4] += 1;
  EXPECT_EQ(error().code(), ErrorCode::kTripleShape);
  write("config.json", R"({"model_type": "nobody_knows_it", "num_hidden_layers": 1})");
  EXPECT_EQ(error().code(), ErrorCode::kUnsupportedFormat);
}

TEST_F(StoredModelTest, SizesAreHeldAgainstEachOther) {
  modules(1, true);
  const auto original = tensors_;
  const auto expect = [&](ErrorCode code, const std::string& tensor) {
    const Error found = error();
    EXPECT_EQ(found.code(), code) << found.what();
    EXPECT_EQ(found.tensor(), tensor) << found.what();
    EXPECT_EQ(found.file(), "model.safetensors");
    tensors_ = original;
  };
  put(kDown + ".bits", DType::kU8, {1}, {7});
  expect(ErrorCode::kTripleShape, kDown + ".bits");
  put(kDown + ".bits", DType::kU8, {1}, {8});
  expect(ErrorCode::kTripleShape, kDown + ".qweight");
  put(kDown + ".shape", DType::kI64, {2}, bytes_of(std::vector<int64_t>{64, -96}));
  expect(ErrorCode::kTripleShape, kDown + ".shape");
  put(kDown + ".shape", DType::kI64, {2}, bytes_of(std::vector<int64_t>{384, 16}));
  expect(ErrorCode::kUnsupportedFormat, kDown + ".qweight");
  put(kDown + ".shape", DType::kI64, {2}, bytes_of(std::vector<int64_t>{96, 64}));
  expect(ErrorCode::kTensorShape, kDown + ".weight");
  put_half(kDown + ".zeros", {191}, 1);
  expect(ErrorCode::kTripleShape, kDown + ".zeros");
  put_half(kDown + ".biases", {192}, 1);
  expect(ErrorCode::kTripleShape, kDown + ".biases");
  for (const char* part : {".zeros", ".scales", ".bits", ".shape", ".qweight"}) {
    tensors_.erase(kDown + part);
    expect(ErrorCode::kMissingTensor, kDown + part);
  }
}

TEST_F(StoredModelTest, BlocksThatAreNoGroups) {
  modules(1, true);
  for (const char* block : {"16", "33", "4096"}) {
    write("jang_config.json",
          std::string(R"({"format": "jang", "quantization": {"block_size": )") + block + "}}");
    EXPECT_EQ(error().code(), ErrorCode::kUnsupportedFormat);
  }
  write("jang_config.json", R"({"format": "jang", "quantization": {"block_size": -1}})");
  EXPECT_EQ(error().code(), ErrorCode::kConfigValue);
}

TEST_F(StoredModelTest, MapsAreMendedWhereOnePairIsLeft) {
  write("jang_config.json", R"({"format": "jang", "format_version": "2.0"})");
  for (const auto& [path, shape] : kMatrices) {
    const uint64_t bits = path == kDown ? 2 : 4;
    const Shape words = {shape[0], shape[1] * bits / 32}, groups = {shape[0], shape[1] / 32};
    put(path + ".weight", DType::kU32, words, Bytes(product(words) * 4));
    put_half(path + ".scales", groups, 1);
    put_half(path + ".biases", groups, 1);
  }
  EXPECT_THROW(open(), Error);  // no entry
  const ModelDirectory directory = open(MapReading::kMended);
  EXPECT_EQ(directory.repairs.size(), kMatrices.size());
  EXPECT_EQ(directory.find_module(kDown)->width, (WidthEntry{2, 32}));
  EXPECT_EQ(stored_model(directory).tensors.size(), kMatrices.size() + 3);
  // Outputs that the architecture does not have are not mended away.
  write("config.json", llama(128));
  EXPECT_THROW(open(MapReading::kMended), Error);
}

}  // namespace
}  // namespace jang
