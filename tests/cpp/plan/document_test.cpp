// The written documents: fields, byte stability, and that readers get back what was planned.
#include <gtest/gtest.h>

#include "io/json.h"
#include "plan/capabilities.h"
#include "plan/plan_document.h"
#include "plan/shapes.h"

namespace jang {
namespace {

using test::Headers;

Plan plan_of(const Headers& headers, const std::string& profile = "4L") {
  PlanOptions options;
  options.profile = profile;
  return make_plan(headers.config, headers.inventory(), options);
}

Json parse(const std::string& text) {
  return parse_json(text, "document", ErrorCode::kConfigSyntax);
}

int64_t integer(const Json& object, std::string_view key) {
  int64_t value = -1;
  const Json* found = object.find(key);
  return found != nullptr && found->get_integer(0, INT64_MAX, value) ? value : -1;
}

Headers llama() {
  Headers headers = test::llama_headers({});
  headers.config = ModelConfig::parse(
      R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
          "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 1000, "dtype": "bfloat16",
          "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192},
          "max_position_embeddings": 131072, "_name_or_path": "/somewhere", "auto_map": {},
          "quantization_config": {}, "vision_config": {}})",
      "config.json");
  return headers;
}

TEST(OutputConfig, BothSpellingsAndTheMap) {
  const Headers headers = llama();
  const Plan plan = plan_of(headers);
  const std::string text = output_config_json(plan, headers.config);
  const Json config = parse(text);
  for (const char* gone : {"_name_or_path", "auto_map", "vision_config"}) {
    EXPECT_EQ(config.find(gone), nullptr) << gone;
  }
  EXPECT_DOUBLE_EQ(config.find("rope_theta")->as_double(), 500000.0);
  const Json& scaling = *config.find("rope_scaling");
  EXPECT_EQ(scaling.find("type")->as_string(), "llama3");
  EXPECT_EQ(scaling.find("rope_type")->as_string(), "llama3");
  EXPECT_DOUBLE_EQ(scaling.find("factor")->as_double(), 8.0);
  EXPECT_EQ(integer(scaling, "original_max_position_embeddings"), 8192);
  EXPECT_NE(config.find("rope_parameters"), nullptr);
  EXPECT_EQ(config.find("torch_dtype")->as_string(), "bfloat16");
  EXPECT_FALSE(config.find("tie_word_embeddings")->as_bool());
  EXPECT_EQ(integer(config, "head_dim"), 64);
  EXPECT_FALSE(config.find("attention_bias")->as_bool());

  const Json& map = *config.find("quantization");
  EXPECT_EQ(map, *config.find("quantization_config"));
  EXPECT_EQ(map.find("mode")->as_string(), "affine");
  const Json& entry = *map.find("model.layers.0.mlp.up_proj");
  EXPECT_EQ(entry.as_object().size(), 3u);
  EXPECT_EQ(integer(entry, "bits"), 4);
  EXPECT_EQ(integer(entry, "group_size"), 64);
  EXPECT_EQ(map.find("model.norm"), nullptr);
  std::size_t quantized = 3;
  for (const PlannedTensor& planned : plan.tensors) quantized += planned.format ? 1 : 0;
  EXPECT_EQ(map.as_object().size(), quantized);

  // What was written reads as the same model.
  const ModelConfig again = ModelConfig::parse(text, "config.json");
  EXPECT_EQ(again.model_type(), "llama");
  EXPECT_EQ(output_config_json(plan, headers.config), text);
}

TEST(OutputConfig, PlainRotaryPositionsSayNull) {
  const Headers headers = test::llama_headers({});
  const std::string text = output_config_json(plan_of(headers), headers.config);
  EXPECT_NE(text.find("\"rope_scaling\": null"), std::string::npos);
  EXPECT_NE(text.find("\"rope_theta\": 10000"), std::string::npos);
}

TEST(OutputConfig, AHeadThatDiffersIsUntied) {
  test::DenseShape shape;
  shape.tied = true;
  Headers headers = test::llama_headers(shape);
  headers.add("lm_head.weight", {1000, 256});
  PlanOptions options;
  const Plan untied =
      make_plan(headers.config, build_inventory(headers.config, headers.tensors, false), options);
  EXPECT_NE(output_config_json(untied, headers.config).find("\"tie_word_embeddings\": false"),
            std::string::npos);
  const Plan tied =
      make_plan(headers.config, build_inventory(headers.config, headers.tensors, true), options);
  EXPECT_NE(output_config_json(tied, headers.config).find("\"tie_word_embeddings\": true"),
            std::string::npos);
}

TEST(OutputIndex, ListsEveryTensor) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  const Plan plan = plan_of(headers);
  const std::string text = output_index_json(plan);
  const Json index = parse(text);
  const Json& metadata = *index.find("metadata");
  EXPECT_EQ(metadata.find("format")->as_string(), "jang");
  EXPECT_EQ(metadata.find("format_version")->as_string(), "2.0");
  EXPECT_EQ(integer(metadata, "total_size"), static_cast<int64_t>(plan.payload_bytes));
  EXPECT_EQ(integer(metadata, "total_parameters"), static_cast<int64_t>(plan.parameters));
  std::size_t tensors = 0;
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    for (const ShardTensor& tensor : shard_tensors(plan, shard)) {
      ++tensors;
      ASSERT_NE(index.find("weight_map")->find(tensor.name), nullptr) << tensor.name;
      EXPECT_EQ(index.find("weight_map")->find(tensor.name)->as_string(),
                shard_file_name(shard, static_cast<uint32_t>(plan.shards.size())));
    }
  }
  EXPECT_EQ(index.find("weight_map")->as_object().size(), tensors);
  EXPECT_EQ(output_index_json(plan), text);
}

ConversionRecord record() {
  ConversionRecord out;
  out.method = "mse";
  out.source_name = "org/name";
  out.generator_version = "1.2.3";
  out.checksums["model.norm.weight"] = 0x1a2b;
  return out;
}

TEST(JangConfig, Fields) {
  const Headers headers = llama();
  const Plan plan = plan_of(headers);
  const std::string text = jang_config_json(plan, headers.config, record());
  const Json document = parse(text);
  EXPECT_EQ(document.find("format")->as_string(), "jang");
  EXPECT_EQ(document.find("format_version")->as_string(), "2.0");
  const Json& q = *document.find("quantization");
  EXPECT_EQ(q.find("profile")->as_string(), "JANG_4L");
  EXPECT_DOUBLE_EQ(q.find("target_bits")->as_double(), 4.0);
  EXPECT_DOUBLE_EQ(q.find("actual_bits")->as_double(), plan.average_bits);
  EXPECT_DOUBLE_EQ(q.find("bits_per_weight")->as_double(), plan.bits_per_weight);
  EXPECT_EQ(q.find("quantization_method")->as_string(), "mse");
  EXPECT_EQ(q.find("calibration_method")->as_string(), "none");
  EXPECT_FALSE(q.find("hadamard_rotation")->as_bool());
  EXPECT_EQ(integer(q, "block_size"), 64);
  EXPECT_EQ(q.find("bit_widths_used")->as_array(), (Json::Array{4, 8}));
  const Json& manifest = *q.find("tensor_quantization_manifest");
  EXPECT_EQ(integer(q, "tensor_quantization_manifest_schema"), 1);
  EXPECT_EQ(integer(q, "tensor_quantization_manifest_count"),
            static_cast<int64_t>(manifest.as_object().size()));
  const Json& entry = *manifest.find("model.layers.1.mlp.down_proj");
  EXPECT_EQ(entry.find("source_tensor")->as_string(), "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(entry.find("weight_key")->as_string(), "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(entry.find("scales_key")->as_string(), "model.layers.1.mlp.down_proj.scales");
  EXPECT_EQ(entry.find("weight_shape")->as_array(), (Json::Array{256, 64}));
  EXPECT_EQ(entry.find("biases_shape")->as_array(), (Json::Array{256, 8}));
  EXPECT_EQ(entry.find("shape")->as_array(), (Json::Array{256, 512}));
  EXPECT_EQ(entry.find("role")->as_string(), "mlp");
  EXPECT_EQ(entry.find("solver")->as_string(), "mse");
  const Json& source = *document.find("source_model");
  EXPECT_EQ(source.find("name")->as_string(), "org/name");
  EXPECT_EQ(source.find("dtype")->as_string(), "bfloat16");
  EXPECT_EQ(source.find("architecture")->as_string(), "llama");
  const Json& architecture = *document.find("architecture");
  EXPECT_EQ(architecture.find("type")->as_string(), "transformer");
  EXPECT_EQ(architecture.find("attention")->as_string(), "gqa");
  EXPECT_FALSE(architecture.find("has_moe")->as_bool());
  EXPECT_EQ(integer(*document.find("runtime"), "total_weight_bytes"),
            static_cast<int64_t>(plan.file_bytes));
  EXPECT_EQ(document.find("checksums")->find("tensors")->find("model.norm.weight")->as_string(),
            "00001a2b");
  EXPECT_EQ(document.find("generator")->find("name")->as_string(), "jang-tools");
  EXPECT_EQ(jang_config_json(plan, headers.config, record()), text);
}

TEST(JangConfig, HybridModels) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  const Json document = parse(jang_config_json(plan_of(headers), headers.config, record()));
  const Json& architecture = *document.find("architecture");
  EXPECT_EQ(architecture.find("type")->as_string(), "hybrid_moe_ssm");
  EXPECT_TRUE(architecture.find("has_ssm")->as_bool());
  EXPECT_TRUE(architecture.find("has_moe")->as_bool());
  const Json& capabilities = *document.find("capabilities");
  EXPECT_EQ(capabilities.find("family")->as_string(), "qwen3_5_moe");
  EXPECT_EQ(capabilities.find("tool_parser")->as_string(), "qwen3_coder");
  EXPECT_EQ(capabilities.find("cache_type")->as_string(), "hybrid");
  EXPECT_TRUE(capabilities.find("supports_thinking")->as_bool());
}

Json capabilities(const std::string& model_type, bool think = false) {
  const ModelConfig config =
      ModelConfig::parse("{\"model_type\": \"" + model_type + "\"}", "config.json");
  return capabilities_json(config, "transformer", "kv", think);
}

TEST(Capabilities, Rows) {
  const Json llama = capabilities("llama");
  EXPECT_EQ(llama.find("family")->as_string(), "llama");
  EXPECT_EQ(llama.find("reasoning_parser"), nullptr);
  EXPECT_TRUE(llama.find("supports_tools")->as_bool());
  EXPECT_FALSE(llama.find("supports_thinking")->as_bool());
  EXPECT_TRUE(capabilities("llama", true).find("think_in_template")->as_bool());
  EXPECT_EQ(capabilities("qwen3_moe").find("family")->as_string(), "qwen3");  // longest key inside
  const Json gemma = capabilities("gemma3_text");
  EXPECT_EQ(gemma.find("family")->as_string(), "gemma4");
  EXPECT_EQ(gemma.find("reasoning_parser")->as_string(), "deepseek_r1");
  EXPECT_EQ(capabilities("gemma4_text").find("reasoning_parser")->as_string(), "gemma4");
}

TEST(Capabilities, UnknownFamilies) {
  for (const char* type : {"mistral", "mixtral", "phi3", "qwen2", "gemma2", "deepseek_v3"}) {
    const Json row = capabilities(type, true);
    EXPECT_EQ(row.find("family")->as_string(), type);
    EXPECT_EQ(row.find("tool_parser")->as_string(), "llama");
    for (const char* key : {"think_in_template", "supports_tools", "supports_thinking"}) {
      EXPECT_FALSE(row.find(key)->as_bool()) << type << key;
    }
    EXPECT_EQ(row.find("modality")->as_string(), "text");
    EXPECT_TRUE(row.find("modalities")->find("text")->as_bool());
  }
}

}  // namespace
}  // namespace jang
