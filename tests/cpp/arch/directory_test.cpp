// Directories by the reading rules: detection, one hostile width map per refusal, triples against
// claims, foreign formats by name.
#include "arch/directory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

// A llama of one layer whose down projection has 128 inputs.
constexpr const char* kLlama = R"("model_type": "llama", "hidden_size": 64,
  "num_hidden_layers": 1, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 10,
  "tie_word_embeddings": true)";
constexpr const char* kDown = "model.layers.0.mlp.down_proj";
constexpr const char* kEntry = R"({"group_size": 64, "bits": 4, "mode": "affine"})";

class DirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ =
        fs::path(testing::TempDir()) /
        ("directory_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& name, const std::string& text) {
    fs::remove(root_ / name);
    std::ofstream(root_ / name) << text;
  }
  void config(const std::string& more, const std::string& base = kLlama) {
    write("config.json", "{" + base + (more.empty() ? "" : ", " + more) + "}");
  }
  void map(const std::string& entries) { config("\"quantization\": {" + entries + "}"); }
  std::string mapped(const std::string& entry) {
    return "\"group_size\": 64, \"bits\": 4, \"" + std::string(kDown) + "\": " + entry;
  }

  void weights(std::vector<OutputTensor> tensors, const std::string& name = "model.safetensors") {
    fs::remove(root_ / name);
    SafetensorsWriter writer(root_ / name, layout_safetensors(std::move(tensors)));
    writer.finish();
  }
  /// down_proj [64, 128] as a triple of `words` and `groups` a row.
  void triple(uint64_t words = 16, uint64_t groups = 2) {
    const std::string path = kDown;
    weights({{path + ".weight", DType::kU32, {64, words}},
             {path + ".scales", DType::kBF16, {64, groups}},
             {path + ".biases", DType::kBF16, {64, groups}}});
  }

  ModelDirectory open() { return open_model_directory(root_); }
  Error error() {
    try {
      open();
    } catch (const Error& found) {
      return found;
    }
    ADD_FAILURE() << "accepted";
    return Error(ErrorCode::kIo, "accepted");
  }
  ErrorCode code() { return error().code(); }
  std::string message() { return error().what(); }

  fs::path root_;
};

TEST_F(DirectoryTest, NoDirectoryNoConfig) {
  EXPECT_EQ(code(), ErrorCode::kUnknownFormat);
  fs::remove_all(root_);
  EXPECT_EQ(code(), ErrorCode::kIo);
}

TEST_F(DirectoryTest, DetectsInOrder) {
  weights({{"model.norm.weight", DType::kBF16, {64}}});
  config("");
  EXPECT_EQ(open().format, DirectoryFormat::kHf);
  config(R"("quantization": {"group_size": 64, "bits": 4})");
  EXPECT_EQ(open().format, DirectoryFormat::kMlx);
  EXPECT_EQ(open().widths.global, (WidthEntry{4, 64}));
  config(R"("quantization": {"group_size": 64, "bits": 4}, "jang": {"format": "jang"})");
  EXPECT_EQ(open().format, DirectoryFormat::kJang);
  EXPECT_EQ(open().jang_config_file, "");
  write("mxq_config.json", R"({"format": "mxq", "format_version": "1.1"})");
  EXPECT_EQ(open().jang_config_file, "mxq_config.json");
  write("jang_config.json", R"({"format": "jang", "format_version": "2.0"})");
  EXPECT_EQ(open().jang_config_file, "jang_config.json");
  EXPECT_EQ(format_name(DirectoryFormat::kJangV1), "jang-v1");
}

TEST_F(DirectoryTest, OldJangIsKnownByItsTensors) {
  config("");
  write("jang_config.json", R"({"format": "jang", "format_version": "1.1"})");
  weights({{"model.norm.weight", DType::kF16, {64}}});
  EXPECT_EQ(open().format, DirectoryFormat::kJang);
  fs::remove(root_ / "model.safetensors");
  weights({{"model.layers.0.mlp.down_proj.weight.qweight", DType::kU8, {4096}},
           {"model.layers.0.mlp.down_proj.weight.scales", DType::kF16, {128}},
           {"model.layers.0.mlp.down_proj.weight.zeros", DType::kF16, {128}}},
          "model-00001-of-00001.jang.safetensors");
  const ModelDirectory directory = open();
  EXPECT_EQ(directory.format, DirectoryFormat::kJangV1);
  EXPECT_EQ(directory.checkpoint.tensors().size(), 3u);
  EXPECT_TRUE(directory.modules.empty());
  write("model.jang.index.json",
        R"({"weight_map": {"model.layers.0.mlp.down_proj.weight.qweight":
            "model-00001-of-00001.jang.safetensors"}})");
  EXPECT_EQ(open().format, DirectoryFormat::kJangV1);
}

TEST_F(DirectoryTest, AModule) {
  triple();
  map(mapped(kEntry));
  const ModelDirectory directory = open();
  ASSERT_EQ(directory.modules.size(), 1u);
  const QuantizedModule* module = directory.find_module(kDown);
  ASSERT_NE(module, nullptr);
  EXPECT_EQ(module->shape, (std::vector<uint64_t>{64, 128}));
  EXPECT_EQ(module->width, (WidthEntry{4, 64}));
  EXPECT_EQ(module->scales->name, std::string(kDown) + ".scales");
  EXPECT_EQ(directory.find_module("model.layers.0.mlp.up_proj"), nullptr);
}

TEST_F(DirectoryTest, WidthsOfEntries) {
  triple();
  map(mapped("true"));
  EXPECT_EQ(open().modules[0].width, (WidthEntry{4, 64}));
  // a missing or null key is MLX's default, not the global value
  map("\"group_size\": 32, \"bits\": 8, \"" + std::string(kDown) + "\": {\"bits\": 4}");
  EXPECT_EQ(open().modules[0].width, (WidthEntry{4, 64}));
  map("\"group_size\": 32, \"bits\": 8, \"" + std::string(kDown) +
      "\": {\"bits\": 4, \"group_size\": null}");
  EXPECT_EQ(open().modules[0].width, (WidthEntry{4, 64}));
  map("\"group_size\": 64, \"bits\": 4");  // the global pair serves stock directories
  EXPECT_EQ(open().modules[0].width, (WidthEntry{4, 64}));
}

TEST_F(DirectoryTest, HostileMaps) {
  triple();
  const std::pair<const char*, ErrorCode> kBad[] = {
      {R"({"bits": 7})", ErrorCode::kMapEntry},
      {R"({"bits": 0})", ErrorCode::kMapEntry},
      {R"({"bits": -4})", ErrorCode::kMapEntry},
      {R"({"bits": 4.5})", ErrorCode::kMapEntry},
      {R"({"bits": "4"})", ErrorCode::kMapEntry},
      {R"({"bits": 1})", ErrorCode::kUnsupportedFormat},
      {R"({"bits": 4, "storage_bits": 1})", ErrorCode::kUnsupportedFormat},
      {R"({"group_size": 16})", ErrorCode::kMapEntry},
      {R"({"group_size": 18446744073709551615})", ErrorCode::kMapEntry},
      {R"({"mode": "mxfp4", "bits": 4, "group_size": 32})", ErrorCode::kUnsupportedFormat},
      {R"({"mode": "mxfp8"})", ErrorCode::kUnsupportedFormat},
      {R"({"mode": "nvfp4", "group_size": 16})", ErrorCode::kUnsupportedFormat},
      {R"({"mode": 4})", ErrorCode::kMapEntry},
      {R"({"bits": 4, "scale": 2})", ErrorCode::kMapEntry},
      {"4", ErrorCode::kMapEntry},
      {"\"affine\"", ErrorCode::kMapEntry},
      {"null", ErrorCode::kMapEntry},
      {"[4, 64]", ErrorCode::kMapEntry},
      {"false", ErrorCode::kMapEntry},
  };
  for (const auto& [entry, expected] : kBad) {
    map(mapped(entry));
    const Error found = error();
    EXPECT_EQ(found.code(), expected) << entry << ": " << found.what();
    EXPECT_NE(std::string(found.what()).find(kDown), std::string::npos) << found.what();
  }
  const std::string down = std::string("\"") + kDown + "\": " + kEntry;
  map("\"bits\": 3, \"group_size\": 48, " + down);
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  map("\"mode\": \"mxfp4\", \"group_size\": 32, \"bits\": 4");
  EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat);
  map("\"quant_method\": \"fp8\"");
  EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat);
  map(down + ", " + down);
  EXPECT_EQ(code(), ErrorCode::kConfigSyntax);
  map(down + ", \"model.layers.0.mlp.up_proj\": " + kEntry);  // an entry without scales
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  EXPECT_NE(message().find("up_proj"), std::string::npos);
  map(std::string("\"") + kDown + "\": true");  // no global pair to refer to
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  map("");
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  config("\"quantization\": [4]");
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  map(down + ", \"model.layers.0.mlp.up_proj\": false");  // says only what is so
  EXPECT_NO_THROW(open());
}

TEST_F(DirectoryTest, MapKeysAreRenamedLikeTensors) {
  const std::string path = "language_model.model.layers.0.mlp.down_proj";
  weights({{path + ".weight", DType::kU32, {64, 16}},
           {path + ".scales", DType::kBF16, {64, 2}},
           {path + ".biases", DType::kBF16, {64, 2}}});
  const std::string base = R"("model_type": "qwen3_5", "num_hidden_layers": 1, "hidden_size": 64,
      "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
      "vocab_size": 10)";
  for (const char* key :
       {"model.layers.0.mlp.down_proj", "model.language_model.layers.0.mlp.down_proj",
        "language_model.model.layers.0.mlp.down_proj"}) {
    config(std::string("\"quantization\": {\"") + key + "\": " + kEntry + "}", base);
    const ModelDirectory directory = open();
    ASSERT_EQ(directory.modules.size(), 1u) << key;
    EXPECT_EQ(directory.modules[0].path, path);
  }
  config("\"quantization\": {\"model.layers.0.mlp.down_proj\": " + std::string(kEntry) +
             ", \"language_model.model.layers.0.mlp.down_proj\": " + kEntry + "}",
         base);
  EXPECT_EQ(code(), ErrorCode::kMapEntry);  // two keys, one module
}

TEST_F(DirectoryTest, WrongClaimsNameTheRightPair) {
  triple(16, 2);                                     // 4 bits, group 64
  map(mapped(R"({"bits": 2, "group_size": 128})"));  // same bits * group
  EXPECT_EQ(code(), ErrorCode::kTripleShape);
  const std::string text = message();
  for (const char* part : {kDown, "2 bits with group size 128", "[64, 16]", "[64, 2]", "128 inputs",
                           "allow 4 bits with group size 64"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  map(mapped(R"({"bits": 8, "group_size": 64})"));
  EXPECT_EQ(code(), ErrorCode::kTripleShape);
  triple(17, 2);
  map(mapped(kEntry));
  EXPECT_NE(message().find("no pair at all"), std::string::npos);
  // an architecture nobody knows: every pair that the shapes allow
  triple(16, 2);
  config("\"quantization\": {" + mapped(R"({"bits": 3, "group_size": 64})") + "}",
         R"("model_type": "unheard_of")");
  EXPECT_NE(message().find("2 bits with group size 128 or 4 bits with group size 64 or 8 bits "
                           "with group size 32"),
            std::string::npos)
      << message();
}

TEST_F(DirectoryTest, ColumnsComeFromTheArchitecture) {
  triple(8, 1);  // 64 inputs at 4 bits: consistent in itself, not down_proj's 128
  map(mapped(kEntry));
  EXPECT_EQ(code(), ErrorCode::kTripleShape);
  weights({{std::string(kDown) + ".weight", DType::kU32, {32, 16}},
           {std::string(kDown) + ".scales", DType::kBF16, {32, 2}},
           {std::string(kDown) + ".biases", DType::kBF16, {32, 2}}});
  EXPECT_EQ(code(), ErrorCode::kTensorShape);  // rows
}

TEST_F(DirectoryTest, MalformedTriples) {
  map(mapped(kEntry));
  const std::string w = std::string(kDown) + ".weight", s = std::string(kDown) + ".scales",
                    b = std::string(kDown) + ".biases";
  struct Case {
    std::vector<OutputTensor> tensors;
    ErrorCode code;
    std::string tensor;
  };
  const Case kCases[] = {
      {{{w, DType::kU32, {64, 16}}, {s, DType::kBF16, {64, 2}}}, ErrorCode::kMissingTensor, b},
      {{{w, DType::kU32, {64, 16}}, {b, DType::kBF16, {64, 2}}}, ErrorCode::kMissingTensor, s},
      {{{s, DType::kBF16, {64, 2}}, {b, DType::kBF16, {64, 2}}}, ErrorCode::kMissingTensor, w},
      {{{w, DType::kU32, {64, 16}}}, ErrorCode::kMissingTensor, s},
      {{{w, DType::kBF16, {64, 16}}, {s, DType::kBF16, {64, 2}}, {b, DType::kBF16, {64, 2}}},
       ErrorCode::kTripleShape,
       w},
      {{{w, DType::kU32, {64, 16}}, {s, DType::kBF16, {64, 2}}, {b, DType::kF16, {64, 2}}},
       ErrorCode::kTripleShape,
       b},
      {{{w, DType::kU32, {64, 16}}, {s, DType::kI32, {64, 2}}, {b, DType::kI32, {64, 2}}},
       ErrorCode::kTripleShape,
       s},
      {{{w, DType::kU32, {64, 16}}, {s, DType::kU8, {64, 4}}}, ErrorCode::kUnsupportedFormat, s},
      {{{w, DType::kU32, {64, 16}}, {s, DType::kBF16, {32, 2}}, {b, DType::kBF16, {32, 2}}},
       ErrorCode::kTripleShape,
       s},
      {{{w, DType::kU32, {64, 16}}, {s, DType::kBF16, {64, 2}}, {b, DType::kBF16, {64, 3}}},
       ErrorCode::kTripleShape,
       b},
      {{{w, DType::kU32, {64, 0}}, {s, DType::kBF16, {64, 0}}, {b, DType::kBF16, {64, 0}}},
       ErrorCode::kTripleShape,
       w},
      {{{w, DType::kU32, {1024}}, {s, DType::kBF16, {128}}, {b, DType::kBF16, {128}}},
       ErrorCode::kTripleShape,
       w},
  };
  for (const Case& c : kCases) {
    weights(c.tensors);
    const Error found = error();
    EXPECT_EQ(found.code(), c.code) << found.what();
    EXPECT_EQ(found.tensor(), c.tensor) << found.what();
    EXPECT_EQ(found.file(), c.tensor.empty() ? "" : "model.safetensors") << found.what();
  }
}

TEST_F(DirectoryTest, JangNeedsAnEntryOrAManifest) {
  triple();
  write("jang_config.json", R"({"format": "jang", "format_version": "2.0"})");
  map("\"group_size\": 64, \"bits\": 4");  // one global pair is not enough
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  const auto manifest = [&](const std::string& entry) {
    write("jang_config.json", R"({"format": "jang", "format_version": "2.0", "quantization":
        {"tensor_quantization_manifest": {")" +
                                  std::string(kDown) + "\": " + entry + "}}}");
  };
  manifest(R"({"bits": 4, "group_size": 64, "source_tensor": "x"})");
  EXPECT_EQ(open().modules[0].width, (WidthEntry{4, 64}));
  manifest(R"({"bits": 8, "group_size": 64})");  // the map counts
  EXPECT_EQ(code(), ErrorCode::kTripleShape);
  map(mapped(kEntry));
  EXPECT_NO_THROW(open());
  manifest("7");
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  manifest(R"({"bits": 9, "group_size": 64})");
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
}

TEST_F(DirectoryTest, ForeignMethods) {
  weights({{"model.norm.weight", DType::kBF16, {64}}});
  for (const char* method :
       {"awq", "gptq", "bitnet", "fp8", "mxfp4", "compressed-tensors", "modelopt"}) {
    config(std::string(R"("quantization_config": {"quant_method": ")") + method + "\"}");
    EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat) << method;
    EXPECT_NE(message().find(method), std::string::npos) << message();
  }
  config(R"("quantization_config": {"bits": 4})");
  EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat);
  config(R"("quantization_config": {"quant_method": "mxfp4"})", R"("model_type": "gpt_oss")");
  EXPECT_EQ(open().format, DirectoryFormat::kHf);
  config(R"("quantization_config": null)");
  EXPECT_EQ(open().format, DirectoryFormat::kHf);
}

TEST_F(DirectoryTest, ForeignJang) {
  weights({{"model.norm.weight", DType::kBF16, {64}}});
  config("");
  const std::pair<const char*, ErrorCode> kBad[] = {
      {R"({"format": "jangtq"})", ErrorCode::kUnsupportedFormat},
      {R"({"format": "jangtq2"})", ErrorCode::kUnsupportedFormat},
      {R"({"format_version": "2.0"})", ErrorCode::kConfigValue},
      {R"({"format": "jang", "format_version": "3.0"})", ErrorCode::kUnsupportedFormat},
      {R"({"format": "jang", "format_version": "two"})", ErrorCode::kConfigValue},
      {R"({"format": "jang", "weight_format": "mxtq"})", ErrorCode::kUnsupportedFormat},
      {R"({"format": "jang", "weight_format": "native_fp4_fp8"})", ErrorCode::kUnsupportedFormat},
      {R"({"format": "jang", "quantization": {"weight_format": "mxfp4"}})",
       ErrorCode::kUnsupportedFormat},
      {R"({"format": "jang", "quantization": {"hadamard_rotation": true}})",
       ErrorCode::kUnsupportedFormat},
      {R"({"format": "jang", "hadamard_rotation": true})", ErrorCode::kUnsupportedFormat},
      {"[]", ErrorCode::kConfigSyntax},
      {R"({"format": "jang", "format": "jang"})", ErrorCode::kConfigSyntax},
  };
  for (const auto& [text, expected] : kBad) {
    write("jang_config.json", text);
    EXPECT_EQ(code(), expected) << text << ": " << message();
  }
  for (const char* good : {"mlx", "affine", "jang_affine", "bf16"}) {
    write("jang_config.json",
          std::string(R"({"format": "jjqf", "weight_format": ")") + good + "\"}");
    EXPECT_NO_THROW(open()) << good;
  }
}

TEST_F(DirectoryTest, ForeignFilesAndTensors) {
  config("");
  for (const char* name : {"model.layers.0.mlp.up_proj.tq_packed", "x.tq2_packed",
                           "model.codebook_vq.0", "x.awq_scales", "x.qweight"}) {
    weights({{name, DType::kBF16, {64}}});
    EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat) << name;
    EXPECT_EQ(error().tensor(), name);
  }
  triple();  // codes nobody speaks of
  EXPECT_EQ(code(), ErrorCode::kMapEntry);
  weights({{"model.norm.weight", DType::kBF16, {64}}});
  for (const char* name : {"jangspec.json", "codebook-layer-0.bin"}) {
    write(name, "{}");
    EXPECT_EQ(code(), ErrorCode::kUnsupportedFormat) << name;
    fs::remove(root_ / name);
  }
  EXPECT_NO_THROW(open());
}

TEST_F(DirectoryTest, ModelsThatCannotRunCanBeOpened) {
  triple();
  config("\"quantization\": {" + mapped(kEntry) +
         R"(}, "rope_scaling": {"type": "proportional", "factor": 4})");
  EXPECT_EQ(open().modules.size(), 1u);
  EXPECT_THROW(directory_spec(open()), Error);
}

TEST_F(DirectoryTest, EosIds) {
  weights({{"model.norm.weight", DType::kBF16, {64}}});
  config("\"eos_token_id\": 7");
  EXPECT_EQ(eos_token_ids(open()), (std::vector<int64_t>{7}));
  write("generation_config.json", R"({"eos_token_id": [9, 7, 3]})");
  EXPECT_EQ(eos_token_ids(open()), (std::vector<int64_t>{3, 7, 9}));
  write("generation_config.json", R"({"eos_token_id": "end"})");
  EXPECT_THROW(eos_token_ids(open()), Error);
  config("\"eos_token_id\": 7, \"text_config\": {\"eos_token_id\": 8}");
  write("generation_config.json", "{}");
  EXPECT_EQ(eos_token_ids(open()), (std::vector<int64_t>{7, 8}));
}

TEST_F(DirectoryTest, HeadsAsStored) {
  const auto store = [&](std::vector<std::string> names, char filler) {
    std::vector<OutputTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::kBF16, {10, 64}});
    fs::remove(root_ / "model.safetensors");
    SafetensorsWriter writer(root_ / "model.safetensors", layout_safetensors(std::move(tensors)));
    for (std::size_t i = 0; i < names.size(); ++i) {
      std::vector<std::byte> bytes(1280, static_cast<std::byte>(1));
      if (writer.layout().tensors[i].name == "lm_head.weight") {
        bytes[1279] = static_cast<std::byte>(filler);
      }
      writer.write(i, 0, bytes);
    }
    writer.finish();
  };
  config("");
  store({"model.embed_tokens.weight"}, 1);
  EXPECT_TRUE(directory_spec(open()).head.tied);
  store({"model.embed_tokens.weight", "lm_head.weight"}, 1);
  EXPECT_TRUE(directory_spec(open()).head.tied);
  store({"model.embed_tokens.weight", "lm_head.weight"}, 2);
  EXPECT_FALSE(directory_spec(open()).head.tied);
  store({"lm_head.weight"}, 1);
  EXPECT_TRUE(directory_spec(open()).head.tied);
  EXPECT_EQ(directory_spec(open()).embedding.path, "lm_head");
}

}  // namespace
}  // namespace jang
