// config.json: strictness, bounds, and one spec from either spelling.
#include "arch/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "arch/family.h"
#include "base/error.h"

namespace jang {
namespace {

ModelConfig parse(const std::string& text) { return ModelConfig::parse(text, "config.json"); }

ErrorCode code_of(const std::string& text) {
  try {
    const ModelConfig config = parse(text);
    require_family(config).spec(config);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "accepted: " << text;
  return ErrorCode::kIo;
}

std::string llama(const std::string& more, const std::string& type = "llama") {
  return "{\"model_type\": \"" + type + R"(", "hidden_size": 256, "num_hidden_layers": 2,
    "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 1000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096)" +
         (more.empty() ? "" : ", " + more) + "}";
}

ModelSpec spec(const std::string& more, const std::string& type = "llama") {
  const ModelConfig config = parse(llama(more, type));
  return require_family(config).spec(config);
}

const AttentionSpec& attention(const ModelSpec& model) {
  return std::get<AttentionSpec>(model.layers.front().mixer);
}

TEST(Config, Syntax) {
  EXPECT_EQ(code_of("[]"), ErrorCode::kConfigSyntax);
  EXPECT_EQ(code_of("{"), ErrorCode::kConfigSyntax);
  EXPECT_EQ(code_of(llama(R"("vocab_size": 7)")), ErrorCode::kConfigSyntax);  // a second one
  EXPECT_EQ(code_of("{}"), ErrorCode::kConfigValue);
  EXPECT_EQ(code_of(R"({"model_type": 3})"), ErrorCode::kConfigValue);
  EXPECT_EQ(code_of(R"({"model_type": "llama", "text_config": []})"), ErrorCode::kConfigValue);
}

TEST(Config, NonFiniteNumbers) {
  const ModelConfig config = parse(R"({"model_type": "x", "a": Infinity, "b": -Infinity, "c": NaN,
                "d": {"__float__": "Infinity"}})");
  EXPECT_TRUE(std::isinf(*config.number("a")));
  EXPECT_LT(*config.number("b"), 0);
  EXPECT_TRUE(std::isnan(*config.number("c")));
  EXPECT_TRUE(std::isinf(*config.number("d")));
}

TEST(Config, Bounds) {
  const char* const kBad[] = {
      "\"num_hidden_layers\": 4097",
      "\"num_hidden_layers\": 0",
      "\"num_hidden_layers\": -1",
      "\"num_hidden_layers\": 1.5",
      "\"num_hidden_layers\": \"2\"",
      "\"num_attention_heads\": 4097",
      "\"hidden_size\": 16777217",
      "\"vocab_size\": 67108865",
      "\"vocab_size\": 1e300",
      "\"num_experts\": 65537",
      "\"num_local_experts\": -3",
      "\"n_routed_experts\": 18446744073709551615",
      "\"max_position_embeddings\": 0",
      "\"head_dim\": 0",
      "\"intermediate_size\": [1, 99999999]",
  };
  for (const char* bad : kBad) {
    EXPECT_EQ(code_of(std::string("{\"model_type\": \"llama\", ") + bad + "}"),
              ErrorCode::kConfigValue)
        << bad;
  }
  // null counts as absent, 64.0 as 64
  const ModelConfig config =
      parse(R"({"model_type": "x", "num_experts": null, "hidden_size": 64.0})");
  EXPECT_EQ(config.experts(), 0);
  EXPECT_EQ(config.integer("hidden_size", 1, 100), 64);
}

TEST(Config, TextPart) {
  const ModelConfig config = parse(
      R"({"model_type": "qwen3_5_moe", "torch_dtype": "float16", "vocab_size": 5,
          "text_config": {"model_type": "qwen3_5_moe_text", "vocab_size": 7, "dtype": "bfloat16"}})");
  EXPECT_EQ(config.model_type(), "qwen3_5_moe");
  EXPECT_EQ(config.outer_type(), "qwen3_5_moe");
  EXPECT_EQ(config.integer("vocab_size", 1, 10), 7);
  EXPECT_EQ(parse(R"({"model_type": "x", "dtype": "torch.float32"})").dtype(), DType::kF32);
  EXPECT_FALSE(parse(R"({"model_type": "x", "dtype": "int8"})").dtype());
}

TEST(Config, BothSpellingsGiveOneSpec) {
  struct Pair {
    const char *old_spelling, *new_spelling;
  };
  constexpr Pair kPairs[] = {
      {R"("rope_theta": 500000.0)",
       R"("rope_parameters": {"rope_type": "default", "rope_theta": 500000.0})"},
      {R"("rope_theta": 20000, "rope_scaling": {"type": "linear", "factor": 2})",
       R"("rope_parameters": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0})"},
      {R"("rope_scaling": {"type": "dynamic", "factor": 4.0})",
       R"("rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0})"},
      {R"("rope_theta": 5e5, "torch_dtype": "bfloat16", "rope_scaling": {"rope_type": "llama3",
          "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 1024})",
       R"("dtype": "bfloat16", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0,
          "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
          "original_max_position_embeddings": 1024})"},
  };
  for (const Pair& pair : kPairs) {
    EXPECT_EQ(spec(pair.old_spelling), spec(pair.new_spelling)) << pair.old_spelling;
  }
  EXPECT_NE(spec(kPairs[0].old_spelling), spec(""));
}

TEST(Config, RotaryTypes) {
  const RopeSpec linear = spec(R"("rope_scaling": {"type": "linear", "factor": 2.5})").ropes[0];
  EXPECT_EQ(linear.type, RopeType::kLinear);
  EXPECT_DOUBLE_EQ(linear.factor, 2.5);
  EXPECT_EQ(linear.rotated, 64);
  const RopeSpec dynamic = spec(R"("rope_scaling": {"type": "dynamic", "factor": 2})").ropes[0];
  EXPECT_EQ(dynamic.type, RopeType::kDynamic);
  EXPECT_EQ(dynamic.original_positions, 4096);
  const std::string llama3 = R"("rope_scaling": {"rope_type": "llama3", "type": "ignored",
      "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4)";
  EXPECT_EQ(spec(llama3 + "}").ropes[0].original_positions, 4096);  // then the model's own length
  EXPECT_EQ(
      spec(llama3 + R"(, "original_max_position_embeddings": 99})").ropes[0].original_positions,
      99);
  EXPECT_EQ(spec(R"("rope_scaling": null)").ropes[0], spec("").ropes[0]);
  // a theta inside the dictionary counts more
  EXPECT_DOUBLE_EQ(spec(R"("rope_theta": 7, "rope_parameters": {"rope_theta": 9})").ropes[0].theta,
                   9.0);

  for (const char* type : {"proportional", "axial", "unheard"}) {
    EXPECT_EQ(
        code_of(llama(std::string(R"("rope_scaling": {"type": ")") + type + R"(", "factor": 2})")),
        ErrorCode::kUnsupportedModel)
        << type;
  }
  const char* const kBad[] = {
      R"("rope_scaling": {"type": "linear"})",
      R"("rope_scaling": {"type": "linear", "factor": 0})",
      R"("rope_scaling": {"type": "linear", "factor": Infinity})",
      R"("rope_scaling": {"type": "linear", "factor": "2"})",
      R"("rope_scaling": {"factor": 2})",
      R"("rope_scaling": {"type": 3, "factor": 2})",
      R"("rope_scaling": 4)",
      R"("rope_theta": -1)",
      R"("rope_theta": NaN)",
      R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
          "high_freq_factor": 4})",
  };
  for (const char* bad : kBad) EXPECT_EQ(code_of(llama(bad)), ErrorCode::kConfigValue) << bad;
}

TEST(Config, LlamaKeys) {
  const ModelSpec plain = spec("");
  EXPECT_EQ(attention(plain).head_dim, 64);
  EXPECT_EQ(attention(plain).n_kv_heads, 2);
  EXPECT_FALSE(attention(plain).q.bias);
  EXPECT_EQ(attention(plain).window, 0);
  EXPECT_FALSE(plain.head.tied);
  EXPECT_FLOAT_EQ(attention(plain).scale, 0.125f);
  EXPECT_EQ(plain.max_positions, 4096);

  EXPECT_EQ(attention(spec(R"("head_dim": 32)")).q.out, 128);
  EXPECT_EQ(attention(spec(R"("head_dim": 32)")).o.in, 128);
  EXPECT_TRUE(attention(spec(R"("attention_bias": true)")).o.bias);
  const ModelSpec mlp_bias = spec(R"("mlp_bias": true)");
  EXPECT_TRUE(std::get<GatedMlpSpec>(*mlp_bias.layers[0].feed_forward).down.bias);
  EXPECT_FALSE(attention(mlp_bias).q.bias);
  EXPECT_TRUE(spec(R"("tie_word_embeddings": true)").head.tied);
  EXPECT_EQ(spec(R"("pretraining_tp": 4)"), plain);
  EXPECT_EQ(spec(R"("hidden_act": "silu")"), plain);

  EXPECT_EQ(code_of(llama(R"("hidden_act": "gelu")")), ErrorCode::kUnsupportedModel);
  EXPECT_EQ(code_of(llama(R"("partial_rotary_factor": 0.5)")), ErrorCode::kUnsupportedModel);
  EXPECT_EQ(code_of(llama(R"("head_dim": 33)")), ErrorCode::kConfigValue);
  EXPECT_EQ(code_of(llama(R"("attention_bias": 1)")), ErrorCode::kConfigValue);
}

TEST(Config, HeadsMustFit) {
  const std::string base = R"({"model_type": "llama", "num_hidden_layers": 1,
      "intermediate_size": 8, "vocab_size": 9, )";
  EXPECT_EQ(code_of(base + R"("hidden_size": 100, "num_attention_heads": 3})"),
            ErrorCode::kConfigValue);
  EXPECT_EQ(code_of(base + R"("hidden_size": 96, "num_attention_heads": 3,
                              "num_key_value_heads": 2})"),
            ErrorCode::kConfigValue);
  const ModelConfig absent = parse(base + R"("hidden_size": 96, "num_attention_heads": 3})");
  EXPECT_EQ(attention(require_family(absent).spec(absent)).n_kv_heads, 3);
}

TEST(Config, MistralKeys) {
  EXPECT_EQ(attention(spec("", "mistral")).window, 4096);
  EXPECT_EQ(attention(spec(R"("sliding_window": null)", "mistral")).window, 0);
  EXPECT_EQ(attention(spec(R"("sliding_window": 77)", "mistral")).window, 77);
  EXPECT_FALSE(attention(spec(R"("attention_bias": true)", "mistral")).q.bias);
  EXPECT_EQ(code_of(R"({"model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 1,
      "intermediate_size": 8, "vocab_size": 9, "num_attention_heads": 2})"),
            ErrorCode::kConfigValue);
  const ModelConfig null_heads = parse(
      R"({"model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 1,
      "intermediate_size": 8, "vocab_size": 9, "num_attention_heads": 2,
      "num_key_value_heads": null})");
  EXPECT_EQ(attention(require_family(null_heads).spec(null_heads)).n_kv_heads, 2);
}

const MoeSpec* routed(const ModelSpec& model, std::size_t layer) {
  return std::get_if<MoeSpec>(&*model.layers[layer].feed_forward);
}

TEST(Config, RoutedFamilies) {
  const ModelSpec mixtral = spec("", "mixtral");
  const MoeSpec* block = routed(mixtral, 0);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(block->experts, 8);
  EXPECT_EQ(block->top_k, 2);
  EXPECT_TRUE(block->renormalize);
  EXPECT_EQ(block->rule, RouterRule::kSoftmaxThenTopK);
  EXPECT_EQ(block->router.path, "model.layers.0.block_sparse_moe.gate");
  EXPECT_EQ(block->down.path, "model.layers.0.block_sparse_moe.switch_mlp.down_proj");
  EXPECT_EQ(block->down.out, mixtral.hidden);
  EXPECT_DOUBLE_EQ(mixtral.ropes[0].theta, 1e6);
  EXPECT_FLOAT_EQ(mixtral.final_norm.eps, 1e-5f);
  EXPECT_EQ(attention(mixtral).window, 0);
  EXPECT_EQ(attention(spec(R"("sliding_window": 9)", "mixtral")).window, 9);

  const ModelSpec qwen = spec(R"("num_local_experts": 6, "num_experts_per_tok": 3,
      "moe_intermediate_size": 40, "norm_topk_prob": true)",
                              "qwen3_moe");
  block = routed(qwen, 0);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(block->experts, 6);
  EXPECT_EQ(block->top_k, 3);
  EXPECT_EQ(block->gate.out, 40);
  EXPECT_TRUE(block->renormalize);
  EXPECT_EQ(block->router.path, "model.layers.0.mlp.gate");
  EXPECT_TRUE(attention(qwen).q_norm.has_value());
  EXPECT_EQ(attention(qwen).window, 0);
  EXPECT_EQ(
      attention(spec(R"("use_sliding_window": true, "sliding_window": 9)", "qwen3_moe")).window, 9);
  EXPECT_EQ(routed(spec("", "qwen3_moe"), 0)->experts, 128);
  EXPECT_EQ(routed(spec(R"("num_experts": null)", "qwen3_moe"), 0)->top_k, 8);
  EXPECT_FALSE(routed(spec("", "qwen3_moe"), 0)->renormalize);
  EXPECT_EQ(routed(spec(R"("mlp_only_layers": [0])", "qwen3_moe"), 0), nullptr);
  EXPECT_EQ(routed(spec(R"("decoder_sparse_step": 2)", "qwen3_moe"), 0), nullptr);
}

TEST(Config, RoutedFamiliesRefuse) {
  for (const char* type : {"qwen3_moe", "mixtral"}) {
    for (const char* bad :
         {R"("num_experts": 0)", R"("num_local_experts": 0)", R"("num_experts_per_tok": 0)",
          R"("num_experts": 4, "num_experts_per_tok": 5)", R"("num_experts": 70000)",
          R"("num_experts": "8")"}) {
      EXPECT_EQ(code_of(llama(bad, type)), ErrorCode::kConfigValue) << type << " " << bad;
    }
  }
  for (const char* bad :
       {R"("mlp_only_layers": 3)", R"("mlp_only_layers": [-1])", R"("mlp_only_layers": ["0"])",
        R"("decoder_sparse_step": 0)", R"("norm_topk_prob": 1)", R"("moe_intermediate_size": 0)"}) {
    EXPECT_EQ(code_of(llama(bad, "qwen3_moe")), ErrorCode::kConfigValue) << bad;
  }
}

TEST(Config, CompletedRoutedFamilies) {
  for (const char* type : {"qwen3_moe", "mixtral"}) {
    const ModelConfig source =
        parse(llama(R"("num_local_experts": 6, "num_experts_per_tok": 3)", type));
    Json config = source.root();
    require_family(source).complete_config(config, source);
    const bool qwen = std::string_view(type) == "qwen3_moe";
    const char* count = qwen ? "num_experts" : "num_local_experts";
    ASSERT_NE(config.find(count), nullptr);
    int64_t value = 0;
    EXPECT_TRUE(config.find(count)->get_integer(6, 6, value));
    if (qwen) {
      for (const char* key : {"decoder_sparse_step", "mlp_only_layers", "norm_topk_prob",
                              "moe_intermediate_size", "intermediate_size", "head_dim"}) {
        EXPECT_NE(config.find(key), nullptr) << key;
      }
    }
    const ModelConfig again = parse(dump_json(config));
    EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source));
  }
}

TEST(Config, CompletedForStockReaders) {
  const ModelConfig source = parse(
      llama(R"("rope_parameters": {"rope_theta": 9000.0, "rope_type": "dynamic", "factor": 3.0})",
            "mistral"));
  Json config = source.root();
  require_family(source).complete_config(config, source);
  EXPECT_DOUBLE_EQ(config.find("rope_theta")->as_double(), 9000.0);
  EXPECT_EQ(config.find("rope_scaling")->find("type")->as_string(), "dynamic");
  EXPECT_EQ(config.find("rope_scaling")->find("rope_theta"), nullptr);
  EXPECT_NE(config.find("sliding_window"), nullptr);
  EXPECT_FALSE(config.find("tie_word_embeddings")->as_bool());
  // reading the completed config gives the same model
  const ModelConfig again = parse(dump_json(config));
  EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source));
}

TEST(Families, Refusals) {
  try {
    require_family(parse(R"({"model_type": "gemma4"})"));  // without its text_config
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedModel);
    const std::string text = error.what();
    EXPECT_NE(text.find("\"gemma4\" is not supported"), std::string::npos) << text;
    std::string supported = "supported: ";
    for (const std::string_view name : family_names()) supported += std::string(name) + ", ";
    supported.resize(supported.size() - 2);
    EXPECT_NE(text.find(supported), std::string::npos) << text;
  }
  EXPECT_EQ(code_of(R"({"model_type": "llava", "text_config": {"model_type": "llama"}})"),
            ErrorCode::kUnsupportedModel);
  EXPECT_GE(planned_model_types().size(), 40u);
}

}  // namespace
}  // namespace jang
