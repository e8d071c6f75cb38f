// gemma4 and minimax: defaults, both spellings, what the written config says. What is refused is in
// tests/python/test_gemma4.py and test_minimax.py.
#include <gtest/gtest.h>

#include <cmath>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

ModelConfig config(const std::string& type, const std::string& more, int layers = 12) {
  return ModelConfig::parse("{\"model_type\": \"" + type + R"(", "hidden_size": 160,
    "intermediate_size": 224, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 331, "num_hidden_layers": )" +
                                std::to_string(layers) + (more.empty() ? "" : ", " + more) + "}",
                            "config.json");
}

ModelSpec spec(const std::string& type, const std::string& more = {}, int layers = 12) {
  const ModelConfig source = config(type, more, layers);
  return require_family(source).spec(source);
}

const AttentionSpec& attention(const ModelSpec& model, std::size_t layer) {
  return std::get<AttentionSpec>(model.layers[layer].mixer);
}

/// Reads what the family writes for a source.
ModelSpec again(const std::string& type, const std::string& more, int layers = 12) {
  const ModelConfig source = config(type, more, layers);
  Json written = source.root();
  require_family(source).complete_config(written, source);
  const ModelConfig config = ModelConfig::parse(dump_json(written), "config.json");
  return require_family(config).spec(config);
}

TEST(Gemma4, Defaults) {
  const ModelSpec plain = spec("gemma4_text");
  EXPECT_EQ(plain.ropes.size(), 2u);
  EXPECT_EQ(plain.ropes[0].type, RopeType::kProportional);
  EXPECT_EQ(plain.ropes[0].rotated, 512);
  EXPECT_EQ(plain.ropes[0].turning, 64);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 1e6);
  EXPECT_EQ(plain.ropes[1].rotated, 256);
  EXPECT_DOUBLE_EQ(plain.ropes[1].theta, 1e4);
  for (std::size_t i = 0; i < plain.layers.size(); ++i) {
    const bool full = i % 6 == 5;
    const AttentionSpec& mixer = attention(plain, i);
    EXPECT_EQ(mixer.window, full ? 0 : 512);
    EXPECT_EQ(mixer.head_dim, full ? 512 : 256);
    EXPECT_EQ(mixer.rope, full ? 0 : 1);
    EXPECT_EQ(mixer.scale, 1.0f);
    EXPECT_EQ(mixer.q_norm->kind, NormKind::kRms);
    EXPECT_TRUE(mixer.v_norm->path.empty());
    EXPECT_EQ(mixer.shared_layer, -1);
    EXPECT_EQ(plain.layers[i].out_scale, "model.layers." + std::to_string(i) + ".layer_scalar");
  }
  EXPECT_EQ(plain.layer_inputs->size, 256);
  EXPECT_EQ(plain.layer_inputs->rows, 262144);
  EXPECT_EQ(plain.layer_inputs->projection.out, 12 * 256);
  EXPECT_EQ(plain.head.softcap, 0.0f);
  EXPECT_TRUE(plain.head.tied);
  EXPECT_FLOAT_EQ(plain.embedding.scale, std::sqrt(160.0f));
}

TEST(Gemma4, KeysOfLayers) {
  const ModelSpec model = spec("gemma4_text", R"("num_kv_shared_layers": 3,
      "attention_k_eq_v": true, "num_global_key_value_heads": 2, "use_double_wide_mlp": true,
      "global_head_dim": 64, "layer_types": ["full_attention", "sliding_attention",
      "full_attention", "sliding_attention", "full_attention", "sliding_attention"])",
                               6);
  EXPECT_EQ(attention(model, 3).shared_layer, 1);
  EXPECT_EQ(attention(model, 4).shared_layer, 2);
  EXPECT_EQ(attention(model, 5).shared_layer, 2);  // the last one is full whatever the list says
  EXPECT_TRUE(attention(model, 2).keys_as_values);
  EXPECT_FALSE(attention(model, 1).keys_as_values);
  EXPECT_EQ(attention(model, 2).n_kv_heads, 2);
  EXPECT_EQ(attention(model, 1).n_kv_heads, 4);
  EXPECT_EQ(attention(model, 4).head_dim, 64);
  EXPECT_EQ(std::get<GatedMlpSpec>(*model.layers[2].feed_forward).gate.out, 224);
  EXPECT_EQ(std::get<GatedMlpSpec>(*model.layers[3].feed_forward).gate.out, 448);
  std::vector<std::string> keys;
  for (const SpecTensor& tensor : spec_tensors(model)) {
    if (tensor.name.find(".k_proj") != std::string::npos ||
        tensor.name.find(".v_proj") != std::string::npos ||
        tensor.name.find(".k_norm") != std::string::npos) {
      keys.push_back(tensor.name.substr(std::string("model.layers.").size()));
    }
  }
  const std::vector<std::string> expected = {
      "0.self_attn.k_proj.weight", "0.self_attn.k_norm.weight", "1.self_attn.k_proj.weight",
      "1.self_attn.v_proj.weight", "1.self_attn.k_norm.weight", "2.self_attn.k_proj.weight",
      "2.self_attn.k_norm.weight"};
  EXPECT_EQ(keys, expected);
}

TEST(Gemma4, BothSpellingsAreOneModel) {
  const std::string layers = R"("layer_types": ["sliding_attention", "full_attention"],
      "attention_k_eq_v": true, )";
  const ModelSpec old =
      spec("gemma4_text", layers + R"("global_head_dim": 64, "num_global_key_value_heads": 1)", 2);
  EXPECT_EQ(old, spec("gemma4_text", layers + R"("per_layer_config": {"1": {"head_dim": 64,
      "num_key_value_heads": 1}})",
                      2));
  // What is not stated is that of the other layers.
  const ModelSpec same = spec("gemma4_text", layers + R"("per_layer_config": {})", 2);
  EXPECT_EQ(attention(same, 1).head_dim, 256);
  EXPECT_EQ(attention(same, 1).n_kv_heads, 4);
}

TEST(Gemma4, WrittenConfigsAreTheSameModel) {
  const std::string experts = R"("enable_moe_block": true, "num_experts": 8, "top_k_experts": 2,
      "moe_intermediate_size": 64, "hidden_size_per_layer_input": 0)";
  for (const std::string& more :
       {std::string(), std::string(R"("num_kv_shared_layers": 5, "final_logit_softcapping": 30.0,
      "torch_dtype": "bfloat16", "attention_bias": true)"),
        experts}) {
    EXPECT_EQ(again("gemma4_text", more), spec("gemma4_text", more)) << more;
  }
  const ModelSpec routed = spec("gemma4_text", experts);
  const auto& moe = std::get<MoeSpec>(*routed.layers[0].feed_forward);
  EXPECT_EQ(moe.router.path, "model.layers.0.router.proj");
  EXPECT_EQ(moe.gate.path, "model.layers.0.experts.switch_glu.gate_proj");
  EXPECT_EQ(moe.activation, Activation::kGeluTanh);
  EXPECT_FALSE(routed.layers[0].ff_pre_norm.has_value());
  EXPECT_FALSE(routed.layer_inputs.has_value());
}

TEST(MiniMax, Defaults) {
  const ModelSpec plain = spec("minimax", {}, 4);
  EXPECT_TRUE(std::holds_alternative<AttentionSpec>(plain.layers[0].mixer));
  const auto& linear = std::get<LightningSpec>(plain.layers[1].mixer);
  EXPECT_EQ(linear.heads, 8);
  EXPECT_EQ(linear.head_dim, 20);
  EXPECT_EQ(linear.qkv.out, 480);
  EXPECT_FLOAT_EQ(linear.norm.eps, 1e-6f);
  EXPECT_NEAR(linear.rates[1], 0.25 * (2.0 / 3.0), 1e-5);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 1e6);
  const auto& moe = std::get<MoeSpec>(*plain.layers[3].feed_forward);
  EXPECT_EQ(moe.experts, 8);
  EXPECT_EQ(moe.top_k, 2);
  EXPECT_TRUE(moe.renormalize);
  EXPECT_EQ(*plain.layers[0].normed_residual, NormedResidualSpec{});
}

TEST(MiniMax, WrittenConfigsAreTheSameModel) {
  const std::string more = R"("full_attn_alpha_factor": 3.5, "linear_attn_beta_factor": 0.5,
      "mlp_alpha_factor": 2, "layer_types": ["linear_attention", "linear_attention",
      "full_attention"], "sliding_window": 7, "rms_norm_eps": 1e-3)";
  const ModelSpec model = spec("minimax", more, 3);
  EXPECT_EQ(again("minimax", more, 3), model);
  EXPECT_FLOAT_EQ(model.layers[2].normed_residual->mixer_kept, 3.5f);
  EXPECT_FLOAT_EQ(model.layers[1].normed_residual->mixer_added, 0.5f);
  EXPECT_FLOAT_EQ(model.layers[1].normed_residual->ff_kept, 2.0f);
  EXPECT_EQ(std::get<AttentionSpec>(model.layers[2].mixer).window, 7);
  EXPECT_EQ(again("minimax", "", 4), spec("minimax", "", 4));
}

}  // namespace
}  // namespace jang
