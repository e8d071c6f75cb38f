// Verification finds what is wrong, names it, and finds nothing in what is right.
#include "convert/verify.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "arch/directory.h"
#include "base/error.h"
#include "convert/convert.h"
#include "convert/source_model.h"
#include "io/checksum.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShard = "model-00001-of-00001.safetensors";

class Verify : public ::testing::Test {
 protected:
  void convert(Method method, const std::string& profile = "JANG_4L", DType dtype = DType::kBF16) {
    model_.dtype = dtype;
    model_.fill(21).write(source());
    fs::create_directories(output());
    ConvertOptions options;
    options.plan.profile = profile;
    options.method = method;
    options.threads = 2;
    options.generator_version = "1.0";
    convert_directory(source(), output(), options, {});
  }
  fs::path source() const { return directory_ / "source"; }
  fs::path output() const { return directory_ / "out"; }

  Verification verify(bool against = false) const {
    return verify_directory(output(), against ? std::optional<fs::path>(source()) : std::nullopt, 2,
                            {});
  }

  void rewrite(const std::string& file, const std::string& content) const {
    std::ofstream(output() / file, std::ios::binary) << content;
  }
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = read_file(output() / file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    rewrite(file, text.replace(at, from.size(), to));
  }
  /// Changes payload bytes of a tensor and states the new checksum.
  void change_payload(const std::string& tensor,
                      const std::function<void(std::string&)>& change) const {
    std::string file = read_file(output() / kShard);
    uint32_t before = 0, after = 0;
    {
      const ModelDirectory opened = open_model_directory(output());
      const CheckpointTensor* found = opened.checkpoint.find(tensor);
      ASSERT_NE(found, nullptr);
      std::string payload = file.substr(found->begin, found->bytes());
      before = crc32_of(std::as_bytes(std::span(payload)));
      change(payload);
      after = crc32_of(std::as_bytes(std::span(payload)));
      file.replace(found->begin, payload.size(), payload);
    }
    rewrite(kShard, file);
    replace("jang_config.json", "\"" + tensor + "\": \"" + crc32_text(before),
            "\"" + tensor + "\": \"" + crc32_text(after));
  }

  static std::string list(const Verification& result) {
    std::string text;
    for (const Fault& fault : result.faults) {
      text += std::string(code_name(fault.code)) + " " + fault.file + " " + fault.tensor + ": " +
              fault.message + "\n";
    }
    return text;
  }
  static bool has(const Verification& result, ErrorCode code, const std::string& tensor = {}) {
    for (const Fault& fault : result.faults) {
      if (fault.code == code && (tensor.empty() || fault.tensor == tensor)) return true;
    }
    return false;
  }

  TemporaryDirectory directory_;
  SourceModel model_;
};

TEST_F(Verify, WhatWasWrittenIsSound) {
  for (const Method method : {Method::kRtn, Method::kMse}) {
    for (const char* profile : {"JANG_2S", "JANG_3M", "JANG_4K", "JANG_6M", "uniform-5"}) {
      fs::remove_all(output());
      fs::remove_all(source());
      convert(method, profile);
      const Verification result = verify(true);
      EXPECT_TRUE(result.faults.empty()) << profile << "\n" << list(result);
      EXPECT_EQ(result.tensors.size(), 16u);
      for (const TensorError& tensor : result.tensors) {
        EXPECT_GT(tensor.relative_rms, 0) << tensor.path;
        EXPECT_LE(tensor.relative_rms, tensor.bound) << tensor.path;
        EXPECT_GT(tensor.max_abs, 0) << tensor.path;
      }
    }
  }
}

TEST_F(Verify, CastsAreNoFaults) {
  model_.dtype = DType::kF32;
  model_.fill(22).write(source());
  fs::create_directories(output());
  ConvertOptions options;
  options.plan.profile = "JANG_6M";
  options.plan.dtype = DType::kF16;
  options.generator_version = "1.0";
  convert_directory(source(), output(), options, {});
  EXPECT_TRUE(verify(true).faults.empty()) << list(verify(true));
}

TEST_F(Verify, EveryFlippedPayloadAndHeaderByteIsFound) {
  convert(Method::kRtn);
  const std::string good = read_file(output() / kShard);
  std::mt19937 random(1);
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < 8; ++i) places.push_back(i);
  for (int i = 0; i < 60; ++i) places.push_back(random() % 4096);
  for (int i = 0; i < 60; ++i) places.push_back(random() % good.size());
  places.push_back(good.size() - 1);
  for (const std::size_t place : places) {
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ (1 << (random() % 8)));
    rewrite(kShard, bad);
    EXPECT_FALSE(verify().faults.empty()) << place;
  }
  rewrite(kShard, good);
  EXPECT_TRUE(verify().faults.empty());
}

TEST_F(Verify, SeveralFaultsAreAllNamed) {
  convert(Method::kRtn);
  std::string bad = read_file(output() / kShard);
  uint64_t first = 0, second = 0;
  {
    const ModelDirectory opened = open_model_directory(output());
    first = opened.checkpoint.find("lm_head.weight")->begin;
    second = opened.checkpoint.find("model.layers.0.mlp.up_proj.biases")->begin;
  }
  bad[first] = static_cast<char>(bad[first] ^ 1);
  bad[second] = static_cast<char>(bad[second] ^ 1);
  rewrite(kShard, bad);
  replace("model.safetensors.index.json", "\"total_size\": ", "\"total_size\": 1");
  const Verification result = verify();
  EXPECT_TRUE(has(result, ErrorCode::kChecksum, "lm_head.weight")) << list(result);
  EXPECT_TRUE(has(result, ErrorCode::kChecksum, "model.layers.0.mlp.up_proj.biases"));
  EXPECT_TRUE(has(result, ErrorCode::kIndexMismatch));
  EXPECT_EQ(result.faults.size(), 3u) << list(result);
}

TEST_F(Verify, ChecksumsCountWhereTheDirectoryDoesNotOpen) {
  convert(Method::kRtn);
  std::string bad = read_file(output() / kShard);
  bad.back() = static_cast<char>(bad.back() ^ 1);
  rewrite(kShard, bad);
  rewrite("config.json", "{");
  const Verification result = verify();
  EXPECT_TRUE(has(result, ErrorCode::kConfigSyntax)) << list(result);
  EXPECT_TRUE(has(result, ErrorCode::kChecksum)) << list(result);
}

TEST_F(Verify, TruncatedShardIsNamed) {
  convert(Method::kRtn);
  const std::string good = read_file(output() / kShard);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, good.size() - 1}) {
    rewrite(kShard, good.substr(0, size));
    const Verification result = verify();
    ASSERT_FALSE(result.faults.empty());
    EXPECT_EQ(result.faults[0].file, kShard) << list(result);
  }
}

TEST_F(Verify, StrayWeightFiles) {
  convert(Method::kRtn);
  fs::copy_file(output() / kShard, output() / "model-extra.safetensors");
  const Verification result = verify();
  ASSERT_EQ(result.faults.size(), 1u) << list(result);
  EXPECT_EQ(result.faults[0].code, ErrorCode::kStrayFile);
  EXPECT_EQ(result.faults[0].file, "model-extra.safetensors");
}

TEST_F(Verify, ManifestAgainstTheMap) {
  convert(Method::kRtn);
  const std::string good = read_file(output() / "jang_config.json");
  replace("jang_config.json", "\"bits\": 8", "\"bits\": 6");
  EXPECT_TRUE(has(verify(), ErrorCode::kManifest)) << list(verify());
  rewrite("jang_config.json", good);
  replace("jang_config.json", "\"tensor_quantization_manifest_count\": 16",
          "\"tensor_quantization_manifest_count\": 15");
  EXPECT_TRUE(has(verify(), ErrorCode::kManifest)) << list(verify());
  rewrite("jang_config.json", good);
  replace("jang_config.json", "\"role\": \"attention\"", "\"role\": \"mlp\"");
  EXPECT_TRUE(has(verify(), ErrorCode::kManifest)) << list(verify());
  rewrite("jang_config.json", good);
  replace("jang_config.json", "\"lm_head\": {", "\"lm_hex\": {");
  EXPECT_TRUE(has(verify(), ErrorCode::kManifest, "lm_hex")) << list(verify());
  EXPECT_TRUE(has(verify(), ErrorCode::kManifest, "lm_head")) << list(verify());
}

TEST_F(Verify, MapAgainstShapes) {
  convert(Method::kRtn);
  replace("config.json", "\"bits\": 4", "\"bits\": 3");
  EXPECT_TRUE(has(verify(), ErrorCode::kMapEntry) || has(verify(), ErrorCode::kTripleShape))
      << list(verify());
}

TEST_F(Verify, OursNeedsChecksumsOthersGetANotice) {
  convert(Method::kRtn);
  replace("jang_config.json", "\"algorithm\": \"crc32\"", "\"algorithm\": \"other\"");
  EXPECT_TRUE(has(verify(), ErrorCode::kChecksum)) << list(verify());
  replace("jang_config.json", "\"name\": \"jang-tools\"", "\"name\": \"foreign\"");
  const Verification foreign = verify();
  EXPECT_TRUE(foreign.faults.empty()) << list(foreign);
  EXPECT_EQ(foreign.notices.size(), 1u);
}

TEST_F(Verify, NonFiniteScalesAreNamed) {
  convert(Method::kRtn);
  change_payload("model.layers.1.mlp.gate_proj.scales", [](std::string& payload) {
    payload[10] = static_cast<char>(0x80);  // bf16 0x7f80: infinity
    payload[11] = 0x7f;
  });
  const Verification result = verify();
  ASSERT_EQ(result.faults.size(), 1u) << list(result);
  EXPECT_EQ(result.faults[0].code, ErrorCode::kNonFinite);
  EXPECT_EQ(result.faults[0].tensor, "model.layers.1.mlp.gate_proj.scales");
  // Two groups a row: the sixth scale is the second of row 2.
  EXPECT_NE(result.faults[0].message.find("row 2, column 1"), std::string::npos) << list(result);
}

TEST_F(Verify, SwappedRowsAndBitsShowAgainstTheSource) {
  for (const Method method : {Method::kRtn, Method::kMse}) {
    fs::remove_all(output());
    fs::remove_all(source());
    convert(method);
    const std::string shard = read_file(output() / kShard);
    const std::string config = read_file(output() / "jang_config.json");
    const std::pair<const char*, std::function<void(std::string&)>> changes[] = {
        // Two rows of scales exchanged: 2 groups of bf16 a row.
        {"model.layers.0.mlp.up_proj.scales",
         [](std::string& p) { std::swap_ranges(p.begin(), p.begin() + 4, p.begin() + 4); }},
        {"model.layers.0.mlp.up_proj.biases",
         [](std::string& p) { std::swap_ranges(p.begin(), p.begin() + 4, p.begin() + 4); }},
        // The highest bit of one code.
        {"model.layers.1.mlp.down_proj.weight",
         [](std::string& p) { p[1000] = static_cast<char>(p[1000] ^ 0x80); }},
        {"lm_head.weight", [](std::string& p) { p[p.size() - 1] ^= static_cast<char>(0x80); }},
        {"model.norm.weight", [](std::string& p) { p[6] ^= 1; }},
    };
    for (const auto& [tensor, change] : changes) {
      change_payload(tensor, change);
      EXPECT_TRUE(verify().faults.empty()) << list(verify());
      const Verification result = verify(true);
      ASSERT_EQ(result.faults.size(), 1u) << tensor << "\n" << list(result);
      EXPECT_EQ(result.faults[0].code, ErrorCode::kQuality);
      EXPECT_EQ(std::string(tensor).rfind(result.faults[0].tensor, 0), 0u);
      rewrite(kShard, shard);
      rewrite("jang_config.json", config);
    }
  }
}

TEST_F(Verify, AnotherSourceIsNoMatch) {
  convert(Method::kRtn);
  SourceModel other = model_;
  other.fill(99);
  fs::remove_all(source());
  other.write(source());
  const Verification result = verify(true);
  EXPECT_GE(result.faults.size(), 16u);
  EXPECT_TRUE(has(result, ErrorCode::kQuality, "lm_head"));
}

TEST_F(Verify, PlainDirectoriesCanBeVerified) {
  model_.fill(23).write(source());
  const Verification result = verify_directory(source(), std::nullopt, 1, {});
  EXPECT_TRUE(result.faults.empty()) << list(result);
  EXPECT_FALSE(result.notices.empty());
}

TEST_F(Verify, NoSuchDirectoryIsAnError) {
  EXPECT_THROW(verify_directory(directory_ / "nowhere", std::nullopt, 1, {}), Error);
}

TEST_F(Verify, CancellingStopsIt) {
  convert(Method::kRtn);
  JobCallbacks callbacks;
  callbacks.cancel = [] { throw std::runtime_error("stop"); };
  EXPECT_THROW(verify_directory(output(), source(), 2, callbacks), std::runtime_error);
}

}  // namespace
}  // namespace jang
