// Configs of the hybrid qwen families: what becomes of them, and one clear line for bad ones.
#include <gtest/gtest.h>

#include <string>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "arch/zero_centred_norms.h"
#include "base/error.h"
#include "io/json.h"

namespace jang {
namespace {

std::string config_text(const std::string& type, const std::string& more = {}) {
  return R"({"model_type": ")" + type + R"(", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
      "vocab_size": 100, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
      "linear_key_head_dim": 8, "linear_value_head_dim": 24, "moe_intermediate_size": 32,
      "shared_expert_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2)" +
         (more.empty() ? "}" : ", " + more + "}");
}
ModelConfig parse(const std::string& text) { return ModelConfig::parse(text, "config.json"); }
ModelSpec spec_of(const std::string& text) {
  const ModelConfig config = parse(text);
  return require_family(config).spec(config);
}

TEST(QwenHybrid, LayersInterleave) {
  const ModelSpec spec = spec_of(config_text("qwen3_5_text"));
  EXPECT_EQ(spec.model_type, "qwen3_5");
  ASSERT_EQ(spec.layers.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(std::holds_alternative<AttentionSpec>(spec.layers[i].mixer), i == 3) << i;
  const auto& attention = std::get<AttentionSpec>(spec.layers[3].mixer);
  EXPECT_TRUE(attention.gated);
  EXPECT_EQ(attention.q.path, "language_model.model.layers.3.self_attn.q_proj");
  EXPECT_EQ(attention.q.out, 2 * 4 * 16);
  EXPECT_EQ(attention.o.in, 4 * 16);
  EXPECT_EQ(spec.ropes.front().rotated, 4);  // a quarter of a head
  const auto& delta = std::get<DeltaNetSpec>(spec.layers[0].mixer);
  EXPECT_EQ(delta.qkv.out, 2 * 16 + 144);
  EXPECT_EQ(delta.channels(), 2 * 16 + 144);
  ASSERT_TRUE(delta.z && delta.a);
  EXPECT_EQ(delta.z->out, 144);
  EXPECT_EQ(delta.a->out, 6);
  EXPECT_EQ(delta.out.in, 144);
  EXPECT_EQ(delta.taps, 4);
}

TEST(QwenHybrid, PackedInputsAndRoutedLayers) {
  const ModelSpec spec = spec_of(config_text(
      "qwen3_next", R"("mlp_only_layers": [1], "decoder_sparse_step": 1, "norm_topk_prob": false,
      "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"])"));
  EXPECT_TRUE(std::holds_alternative<AttentionSpec>(spec.layers[0].mixer));
  const auto& delta = std::get<DeltaNetSpec>(spec.layers[1].mixer);
  EXPECT_FALSE(delta.z || delta.a);
  EXPECT_EQ(delta.qkv.path, "model.layers.1.linear_attn.in_proj_qkvz");
  EXPECT_EQ(delta.qkv.out, 2 * 16 + 2 * 144);
  EXPECT_EQ(delta.b.out, 12);
  EXPECT_TRUE(std::holds_alternative<GatedMlpSpec>(*spec.layers[1].feed_forward));
  const auto& moe = std::get<MoeSpec>(*spec.layers[2].feed_forward);
  EXPECT_FALSE(moe.renormalize);
  ASSERT_TRUE(moe.shared && moe.shared->gate);
  EXPECT_EQ(moe.shared->mlp.up.out, 48);
  EXPECT_EQ(moe.shared->gate->out, 1);
}

TEST(QwenHybrid, WrappedIsTheSameModel) {
  const std::string text = config_text("qwen3_5_moe_text");
  const ModelSpec flat = spec_of(text);
  const ModelSpec wrapped =
      spec_of(R"({"model_type": "qwen3_5_moe", "vision_config": {}, "text_config": )" + text + "}");
  EXPECT_EQ(flat, wrapped);
  EXPECT_TRUE(std::get<MoeSpec>(*flat.layers[0].feed_forward).renormalize);
  EXPECT_THROW(spec_of(R"({"model_type": "other", "text_config": )" + text + "}"), Error);
}

TEST(QwenHybrid, CompletedConfigsAreTheSameModelAndWhatStockReads) {
  for (const char* type : {"qwen3_5_text", "qwen3_next", "qwen3_5_moe_text"}) {
    for (const bool wrapped : {false, true}) {
      if (wrapped && std::string(type) == "qwen3_next") continue;
      std::string text =
          config_text(type, R"("rope_parameters": {"rope_type": "default", "rope_theta": 77.0,
                "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]},
                "full_attention_interval": 2)");
      if (wrapped) {
        std::string outer = type;
        outer.resize(outer.size() - 5);
        text = R"({"model_type": ")" + outer + R"(", "text_config": )" + text + "}";
      }
      const ModelConfig source = parse(text);
      Json config = source.root();
      require_family(source).complete_config(config, source);
      const ModelConfig again = parse(dump_json(config));
      EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source)) << type;
      EXPECT_TRUE(config.find(kNormsShiftedKey)->as_bool());
      const Json& settings = wrapped ? *config.find("text_config") : config;
      EXPECT_EQ(config.find("model_type")->as_string(), require_family(source).model_type);
      EXPECT_EQ(settings.find("full_attention_interval")->as_double(), 2.0);
      EXPECT_EQ(settings.find("rope_theta")->as_double(), 77.0);
      EXPECT_EQ(settings.find("partial_rotary_factor")->as_double(), 0.5);
      EXPECT_EQ(settings.find("rope_parameters")->find("rope_theta")->as_double(), 77.0);
      EXPECT_EQ(settings.find("rope_parameters")->find("type")->as_string(), "default");
      EXPECT_EQ(settings.find("linear_conv_kernel_dim")->as_double(), 4.0);
    }
  }
}

TEST(QwenHybrid, NormsThatAreStoredAsGammaMinusOne) {
  ModelSpec spec = spec_of(config_text("qwen3_next", R"("full_attention_interval": 2)"));
  add_one_to_norms(spec);
  EXPECT_EQ(spec.final_norm.kind, NormKind::kRmsOnePlus);
  EXPECT_EQ(spec.layers[0].pre_norm->kind, NormKind::kRmsOnePlus);
  EXPECT_EQ(spec.layers[0].ff_pre_norm->kind, NormKind::kRmsOnePlus);
  EXPECT_EQ(std::get<DeltaNetSpec>(spec.layers[0].mixer).norm.kind, NormKind::kRms);
  EXPECT_EQ(std::get<AttentionSpec>(spec.layers[1].mixer).q_norm->kind, NormKind::kRmsOnePlus);
  EXPECT_FALSE(is_zero_centred("llama", "model.norm"));
  EXPECT_FALSE(is_zero_centred("qwen3_5", "model.layers.0.linear_attn.norm"));
}

struct Hostile {
  const char* key;
  const char* more;
  const char* expected;
};

TEST(QwenHybrid, BadConfigsAreOneClearLine) {
  const Hostile cases[] = {
      {"linear_num_value_heads", R"("linear_num_value_heads": 7)",
       "expected a multiple of the 2 key heads, found 7"},
      {"linear_conv_kernel_dim", R"("linear_conv_kernel_dim": 33)", "from 1 to 32, found 33"},
      {"linear_key_head_dim", R"("linear_key_head_dim": 16000000)", "more than 2^22 channels"},
      {"layer_types", R"("layer_types": ["linear_attention"])", "expected a list of 4 layers"},
      {"layer_types", R"("layer_types": ["linear_attention", "mamba", "x", "y"])",
       "for layer 1, found \"mamba\""},
      {"full_attention_interval", R"("full_attention_interval": 0)", "from 1 to"},
      {"num_key_value_heads", R"("num_key_value_heads": 3)", "does not divide the 4"},
      {"head_dim", R"("head_dim": 16777216)", "above 2^24"},
      {"partial_rotary_factor", R"("partial_rotary_factor": 0.2)", "even number of rotated"},
      {"partial_rotary_factor", R"("partial_rotary_factor": 1.5)", "at most 1"},
      {"num_experts_per_tok", R"("num_experts_per_tok": 5)", "at most the 4 experts"},
      {"rms_norm_eps", R"("rms_norm_eps": -1)", "from 0 to 1"},
      {"hidden_act", R"("hidden_act": "relu")", "supported: silu"},
      {"attention_bias", R"("attention_bias": 3)", "expected true or false"},
  };
  for (const Hostile& hostile : cases) {
    // The last of two equal keys would count, if the parser let both pass: the first is taken out.
    std::string text = config_text("qwen3_5_moe_text");
    const std::string quoted = std::string("\"") + hostile.key + "\": ";
    if (const std::size_t at = text.find(quoted); at != std::string::npos) {
      const std::size_t end = text.find_first_of(",}", at);
      text.erase(at, text[end] == ',' ? end + 1 - at : end - at);
    }
    text.pop_back();
    while (text.back() == ' ' || text.back() == ',') text.pop_back();
    text += std::string(", ") + hostile.more + "}";
    try {
      spec_of(text);
      ADD_FAILURE() << hostile.more;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(hostile.key), std::string::npos) << message;
      EXPECT_NE(message.find(hostile.expected), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
}

TEST(QwenHybrid, LayerOrdersThatStockCannotReadAreNotWritten) {
  const ModelConfig source = parse(config_text("qwen3_5_text", R"("layer_types":
      ["full_attention", "linear_attention", "linear_attention", "full_attention"])"));
  EXPECT_NO_THROW(require_family(source).spec(source));
  Json config = source.root();
  try {
    require_family(source).complete_config(config, source);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedModel);
    EXPECT_NE(std::string(error.what()).find("layer_types"), std::string::npos);
  }
}

}  // namespace
}  // namespace jang
