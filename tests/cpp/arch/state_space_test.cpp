// Configs of mamba, falcon_mamba and mamba2: what becomes of them, and one clear line for bad ones.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "io/json.h"

namespace jang {
namespace {

std::string config_text(const std::string& type, const std::string& more = {}) {
  return R"({"model_type": ")" + type + R"(", "hidden_size": 40, "num_hidden_layers": 2,
      "vocab_size": 100)" +
         (more.empty() ? "}" : ", " + more + "}");
}
std::string mamba2_text(const std::string& more = {}) {
  return config_text("mamba2", R"("num_heads": 10, "head_dim": 8, "n_groups": 2)" +
                                   (more.empty() ? std::string() : ", " + more));
}
ModelConfig parse(const std::string& text) { return ModelConfig::parse(text, "config.json"); }
ModelSpec spec_of(const std::string& text) {
  const ModelConfig config = parse(text);
  return require_family(config).spec(config);
}

TEST(StateSpaces, SelectiveLayersHaveNoFeedForward) {
  const ModelSpec spec = spec_of(config_text("mamba"));
  EXPECT_EQ(spec.model_type, "mamba");
  EXPECT_TRUE(spec.ropes.empty());
  EXPECT_TRUE(spec.head.tied);
  EXPECT_GT(spec.max_positions, 0);
  EXPECT_EQ(spec.embedding.path, "backbone.embeddings");
  EXPECT_EQ(spec.final_norm.path, "backbone.norm_f");
  ASSERT_EQ(spec.layers.size(), 2u);
  EXPECT_FALSE(spec.layers[1].feed_forward);
  EXPECT_EQ(spec.layers[1].pre_norm->path, "backbone.layers.1.norm");
  const auto& mixer = std::get<MambaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(mixer.in.path, "backbone.layers.1.mixer.in_proj");
  EXPECT_EQ(mixer.in.out, 160);
  EXPECT_EQ(mixer.rank, 3);  // 40 / 16, rounded up
  EXPECT_EQ(mixer.parameters.out, 3 + 2 * 16);
  EXPECT_EQ(mixer.step.in, 3);
  EXPECT_TRUE(mixer.step.bias);
  EXPECT_FALSE(mixer.in.bias);
  EXPECT_TRUE(mixer.convolution_bias);
  EXPECT_FALSE(mixer.step_norm || mixer.b_norm || mixer.c_norm);
}

TEST(StateSpaces, FalconNormsWithoutWeights) {
  const ModelSpec spec = spec_of(config_text(
      "falcon_mamba", R"("mixer_rms_eps": 1e-3, "time_step_rank": 5, "state_size": 6)"));
  const auto& mixer = std::get<MambaSpec>(spec.layers[0].mixer);
  ASSERT_TRUE(mixer.step_norm && mixer.b_norm && mixer.c_norm);
  EXPECT_EQ(mixer.step_norm->size, 5);
  EXPECT_EQ(mixer.c_norm->size, 6);
  EXPECT_EQ(mixer.b_norm->eps, 1e-3f);
  for (const SpecTensor& tensor : spec_tensors(spec))
    EXPECT_EQ(tensor.name.find("layernorm"), std::string::npos) << tensor.name;
}

TEST(StateSpaces, HeadsShareGroups) {
  const ModelSpec spec = spec_of(mamba2_text(
      R"("state_size": 4, "time_step_limit": [0.25, {"__float__": "Infinity"}], "use_bias": true)"));
  EXPECT_FALSE(spec.head.tied);
  const auto& mixer = std::get<Mamba2Spec>(spec.layers[0].mixer);
  EXPECT_EQ(mixer.inner(), 80);
  EXPECT_EQ(mixer.channels(), 80 + 2 * 2 * 4);
  EXPECT_EQ(mixer.in.out, 80 + 96 + 10);
  EXPECT_TRUE(mixer.in.bias && mixer.out.bias);
  EXPECT_EQ(mixer.least_step, 0.25f);
  EXPECT_TRUE(std::isinf(mixer.largest_step));
  EXPECT_EQ(mixer.norm->path, "backbone.layers.0.mixer.norm");
}

std::string granite_text(const std::string& more = {}) {
  return R"({"model_type": "granitemoehybrid", "hidden_size": 40, "num_hidden_layers": 3,
      "vocab_size": 100, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
      "shared_intermediate_size": 56, "mamba_n_heads": 10, "attention_multiplier": 0.25,
      "layer_types": ["mamba", "attention", "linear_attention"])" +
         (more.empty() ? "}" : ", " + more + "}");
}

TEST(StateSpaces, GraniteHybridsMixLayers) {
  const ModelSpec spec = spec_of(granite_text(
      R"("num_local_experts": 4, "mamba_d_head": "auto", "residual_multiplier": 0.5,
         "rope_theta": 77.0)"));
  EXPECT_TRUE(spec.ropes.empty());  // no word about positions: none
  EXPECT_TRUE(std::holds_alternative<Mamba2Spec>(spec.layers[0].mixer));
  EXPECT_TRUE(std::holds_alternative<Mamba2Spec>(spec.layers[2].mixer));
  const auto& attention = std::get<AttentionSpec>(spec.layers[1].mixer);
  EXPECT_EQ(attention.rope, -1);
  EXPECT_EQ(attention.scale, 0.25f);
  const auto& mamba = std::get<Mamba2Spec>(spec.layers[2].mixer);
  EXPECT_EQ(mamba.in.path, "model.layers.2.mamba.in_proj");
  EXPECT_EQ(mamba.head_dim, 8);
  EXPECT_EQ(mamba.state, 256);
  EXPECT_EQ(spec.layers[0].residual, 0.5f);
  const auto& moe = std::get<MoeSpec>(*spec.layers[0].feed_forward);
  EXPECT_EQ(moe.rule, RouterRule::kTopKThenSoftmax);
  EXPECT_EQ(moe.router.path, "model.layers.0.block_sparse_moe.router.layer");
  EXPECT_EQ(moe.gate.out, 24);
  ASSERT_TRUE(moe.shared && moe.shared->mlp.gate_up && !moe.shared->gate);
  EXPECT_EQ(moe.shared->mlp.gate_up->out, 112);
}

TEST(StateSpaces, GraniteHybridsWithoutExperts) {
  const ModelSpec spec =
      spec_of(granite_text(R"("num_local_experts": 0, "position_embedding_type": "rope")"));
  ASSERT_EQ(spec.ropes.size(), 1u);
  EXPECT_EQ(std::get<AttentionSpec>(spec.layers[1].mixer).rope, 0);
  const auto& mlp = std::get<GatedMlpSpec>(*spec.layers[1].feed_forward);
  EXPECT_EQ(mlp.gate.path, "model.layers.1.mlp.gate_proj");
  EXPECT_EQ(mlp.gate.out, 56);
}

TEST(StateSpaces, CompletedConfigsAreTheSameModelAndWhatStockReads) {
  for (const std::string& text :
       {config_text("mamba"), config_text("falcon_mamba", R"("expand": 3)"), mamba2_text(),
        granite_text(), granite_text(R"("num_local_experts": 0, "position_embedding_type": "rope",
                                        "rope_theta": 77.0)")}) {
    const ModelConfig source = parse(text);
    Json config = source.root();
    require_family(source).complete_config(config, source);
    const ModelConfig again = parse(dump_json(config));
    EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source)) << text;
    if (source.model_type() == "granitemoehybrid") {
      EXPECT_EQ(config.find("layer_types")->as_array()[2].as_string(), "mamba");
      EXPECT_NE(config.find("time_step_limit"), nullptr);
      EXPECT_NE(config.find("position_embedding_type"), nullptr);
      continue;
    }
    for (const char* key : {"intermediate_size", "state_size", "conv_kernel", "use_bias",
                            "use_conv_bias", "time_step_rank", "layer_norm_epsilon"})
      EXPECT_NE(config.find(key), nullptr) << key;
  }
}

TEST(StateSpaces, BadGraniteHybridsAreOneClearLine) {
  struct Hostile {
    const char* more;
    const char* expected;
  };
  const Hostile cases[] = {
      {R"("mamba_n_groups": 3)", "mamba_n_groups: 3 does not divide the 10 heads"},
      {R"("mamba_d_head": 7)", "mamba_n_heads: expected mamba_n_heads * mamba_d_head"},
      {R"("mamba_d_conv": 0)", "mamba_d_conv: expected an integer from 1 to 32, found 0"},
      {R"("residual_multiplier": 0)", "residual_multiplier: expected a finite number above 0"},
      {R"("num_local_experts": 4, "num_experts_per_tok": 5)", "at most the 4 experts"},
      {R"("num_local_experts": 4, "num_experts_per_tok": 0)", "num_experts_per_tok"},
      {R"("shared_intermediate_size": 0)", "shared_intermediate_size"},
      {R"("time_step_limit": "none")", "time_step_limit: expected two numbers"},
  };
  for (const Hostile& hostile : cases) {
    std::string text = granite_text(hostile.more);
    const std::string shared = R"("shared_intermediate_size": 56, )";
    if (std::string(hostile.more).find("shared_") != std::string::npos)
      text.erase(text.find("\"shared_intermediate_size\": 56,"), shared.size() - 1);
    try {
      spec_of(text);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(hostile.expected), std::string::npos) << error.message();
    }
  }
  std::string types = granite_text();
  types.replace(types.find("\"linear_attention\""), 18, "\"window\"");
  try {
    spec_of(types);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("layer_types: expected mamba or attention for layer 2, found "
                                   "\"window\""),
              std::string::npos)
        << error.message();
  }
}

TEST(StateSpaces, BadConfigsAreOneClearLine) {
  struct Hostile {
    const char* type;
    const char* key;
    const char* more;
    const char* expected;
  };
  const Hostile cases[] = {
      {"mamba", "expand", R"("expand": 0)", "from 1 to 64, found 0"},
      {"mamba", "expand", R"("expand": 64, "state_size": 1)", "more than 2^22 channels"},
      {"mamba", "state_size", R"("state_size": 5000)", "from 1 to 4096, found 5000"},
      {"mamba", "conv_kernel", R"("conv_kernel": 33)", "from 1 to 32, found 33"},
      {"mamba", "time_step_rank", R"("time_step_rank": "some")", "found \"some\""},
      {"mamba", "time_step_rank", R"("time_step_rank": 0)", "found 0"},
      {"mamba", "use_conv_bias", R"("use_conv_bias": 1)", "expected true or false"},
      {"mamba", "hidden_act", R"("hidden_act": "gelu")", "supported: silu"},
      {"mamba", "layer_norm_epsilon", R"("layer_norm_epsilon": -1)", "from 0 to 1"},
      {"falcon_mamba", "mixer_rms_eps", R"("mixer_rms_eps": 2)", "from 0 to 1"},
      {"mamba2", "num_heads", R"("num_heads": 11, "head_dim": 8)",
       "expand * hidden_size, 80, found 88"},
      {"mamba2", "n_groups", R"("num_heads": 10, "head_dim": 8, "n_groups": 3)",
       "3 does not divide the 10 heads"},
      {"mamba2", "state_size",
       R"("num_heads": 4096, "head_dim": 1, "n_groups": 4096, "state_size": 4096,
          "hidden_size": 2048)",
       "more than 2^22 channels"},
      {"mamba2", "time_step_limit",
       R"("num_heads": 10, "head_dim": 8, "n_groups": 2, "time_step_limit": [1])",
       "expected two numbers"},
      {"mamba2", "time_step_limit",
       R"("num_heads": 10, "head_dim": 8, "n_groups": 2, "time_step_limit": [0.5, 0.25])",
       "lowest <= highest"},
      {"mamba2", "time_step_limit",
       R"("num_heads": 10, "head_dim": 8, "n_groups": 2, "time_step_limit": [NaN, 1.0])",
       "0 <= lowest"},
  };
  for (const Hostile& hostile : cases) {
    const std::string more = hostile.more;
    std::string text = config_text(hostile.type, more);
    const bool wide = std::string(hostile.expected).find("2^22") != std::string::npos;
    const std::string width = R"("hidden_size": 40, )";
    if (more.find("hidden_size") != std::string::npos) {
      text.erase(text.find(width), width.size());
    } else if (wide) {
      text.replace(text.find(width), width.size(), R"("hidden_size": 16000000, )");
    }
    try {
      spec_of(text);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(hostile.key), std::string::npos) << error.message();
      EXPECT_NE(error.message().find(hostile.expected), std::string::npos) << error.message();
      EXPECT_EQ(error.message().find('\n'), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace jang
