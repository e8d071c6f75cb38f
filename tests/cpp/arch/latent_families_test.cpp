// Configs of glm4_moe, deepseek_v3 and deepseek_v2: what becomes of them, and one clear line for
// bad ones.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "io/json.h"

namespace jang {
namespace {

constexpr const char* kShape =
    R"("hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
       "num_attention_heads": 4, "vocab_size": 100, "n_routed_experts": 8,
       "num_experts_per_tok": 2, "moe_intermediate_size": 32)";
constexpr const char* kLatent =
    R"("q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8,
       "v_head_dim": 16, "first_k_dense_replace": 1)";

std::string text(const std::string& type, const std::string& more = {}) {
  const std::string own = type == "glm4_moe"      ? R"("num_key_value_heads": 2, "head_dim": 16)"
                          : type == "deepseek_v3" ? std::string(kLatent) + R"(, "n_group": 4,
                                                        "topk_group": 2)"
                                                  : std::string(kLatent);
  // Of two values for a key the last one stands.
  std::string config = R"({"model_type": ")" + type + "\", " + kShape + ", " + own + "}";
  if (more.empty()) return config;
  Json all = parse_json(config, "config.json", ErrorCode::kConfigSyntax);
  const Json changes = parse_json("{" + more + "}", "config.json", ErrorCode::kConfigSyntax);
  for (const auto& [key, value] : changes.as_object()) all[key] = value;
  return dump_json(all);
}
ModelConfig parse(const std::string& config) { return ModelConfig::parse(config, "config.json"); }
ModelSpec spec_of(const std::string& type, const std::string& more = {}) {
  const ModelConfig config = parse(text(type, more));
  return require_family(config).spec(config);
}
const LatentAttentionSpec& latent(const ModelSpec& spec, std::size_t layer = 0) {
  return std::get<LatentAttentionSpec>(spec.layers[layer].mixer);
}
const MoeSpec& routed(const ModelSpec& spec, std::size_t layer) {
  return std::get<MoeSpec>(*spec.layers[layer].feed_forward);
}
bool dense(const ModelSpec& spec, std::size_t layer) {
  return std::holds_alternative<GatedMlpSpec>(*spec.layers[layer].feed_forward);
}

TEST(LatentFamilies, LowRanksOfTheThirdGeneration) {
  const ModelSpec spec = spec_of("deepseek_v3", R"("attention_bias": true)");
  const LatentAttentionSpec& a = latent(spec);
  ASSERT_TRUE(a.q_a && a.q_norm);
  EXPECT_EQ(a.q_a->out, 48);
  EXPECT_TRUE(a.q_a->bias && a.kv_a.bias && a.o.bias);
  EXPECT_FALSE(a.q.bias);
  EXPECT_EQ(a.q.path, "model.layers.0.self_attn.q_b_proj");
  EXPECT_EQ(a.q.out, 4 * (24 + 8));
  EXPECT_EQ(a.kv_a.out, 32 + 8);
  EXPECT_EQ(a.kv_norm.size, 32);
  EXPECT_FLOAT_EQ(a.kv_norm.eps, 1e-6f);
  EXPECT_EQ(a.embed_q, (StackSpec{"model.layers.0.self_attn.embed_q", 4, 32, 24}));
  EXPECT_EQ(a.unembed_out, (StackSpec{"model.layers.0.self_attn.unembed_out", 4, 16, 32}));
  EXPECT_FALSE(a.kv_b);
  EXPECT_EQ(a.o.in, 4 * 16);
  EXPECT_FLOAT_EQ(a.scale, 1.0f / std::sqrt(32.0f));
  EXPECT_EQ(spec.ropes.front().rotated, 8);
  EXPECT_TRUE(spec.ropes.front().interleaved);
  EXPECT_FALSE(spec_of("deepseek_v3", R"("rope_interleave": false)").ropes.front().interleaved);
  EXPECT_TRUE(spec_of("deepseek_v2", R"("rope_interleave": false)").ropes.front().interleaved);
  EXPECT_TRUE(dense(spec, 0));
  const MoeSpec& moe = routed(spec, 1);
  EXPECT_EQ(moe.rule, RouterRule::kSigmoid);
  EXPECT_EQ(moe.correction, "model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(moe.groups, 4);
  EXPECT_EQ(moe.open_groups, 2);
  EXPECT_TRUE(moe.renormalize);
  EXPECT_FLOAT_EQ(moe.weight_scale, 2.5f);
  ASSERT_TRUE(moe.shared);
  EXPECT_EQ(moe.shared->mlp.gate.path, "model.layers.1.mlp.shared_experts.gate_proj");
  EXPECT_EQ(moe.shared->mlp.gate.out, 32);
  EXPECT_FALSE(moe.shared->gate);
}

TEST(LatentFamilies, NullIsFullRankAndAbsenceTheDefault) {
  const ModelSpec spec = spec_of("deepseek_v3", R"("q_lora_rank": null)");
  EXPECT_FALSE(latent(spec).q_a || latent(spec).q_norm);
  EXPECT_EQ(latent(spec).q.path, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(latent(spec).q.in, 64);
  Json config = parse_json(text("deepseek_v3"), "config.json", ErrorCode::kConfigSyntax);
  config.as_object().erase("q_lora_rank");
  const ModelConfig silent = parse(dump_json(config));
  EXPECT_EQ(latent(require_family(silent).spec(silent)).q_a->out, 1536);
}

TEST(LatentFamilies, StretchedPositionsScaleScoresAndAngles) {
  const std::string yarn = R"("rope_scaling": {"type": "yarn", "factor": 40.0, "mscale": 0.7,
      "mscale_all_dim": 1.3, "original_max_position_embeddings": 64})";
  for (const char* type : {"deepseek_v3", "deepseek_v2"}) {
    const ModelSpec spec = spec_of(type, yarn);
    const double all = 0.1 * 1.3 * std::log(40.0) + 1.0, own = 0.1 * 0.7 * std::log(40.0) + 1.0;
    EXPECT_NEAR(static_cast<double>(latent(spec).scale), all * all / std::sqrt(32.0), 1e-6);
    EXPECT_NEAR(spec.ropes.front().magnitude, own / all, 1e-12);
    const ModelSpec off = spec_of(type, R"("rope_scaling": {"type": "yarn", "factor": 1.0,
        "mscale_all_dim": 1.3, "original_max_position_embeddings": 64})");
    EXPECT_FLOAT_EQ(latent(off).scale, 1.0f / std::sqrt(32.0f));
  }
}

TEST(LatentFamilies, ChoicesOfTheSecondGeneration) {
  const ModelSpec greedy = spec_of("deepseek_v2", R"("n_group": 4, "topk_group": 2,
      "norm_topk_prob": true, "mlp_bias": true, "routed_scaling_factor": 16.0)");
  EXPECT_EQ(latent(greedy).kv_b->path, "model.layers.0.self_attn.kv_b_proj");
  EXPECT_EQ(latent(greedy).kv_b->out, 4 * (24 + 16));
  const MoeSpec& moe = routed(greedy, 2);
  EXPECT_EQ(moe.rule, RouterRule::kSoftmaxThenTopK);
  EXPECT_TRUE(moe.correction.empty());
  EXPECT_EQ(moe.groups, 1);
  EXPECT_FALSE(moe.renormalize);  // the model type never does
  EXPECT_FLOAT_EQ(moe.weight_scale, 16.0f);
  EXPECT_TRUE(moe.shared->mlp.up.bias);
  EXPECT_EQ(moe.shared->mlp.up.out, 64);  // two by default
  EXPECT_TRUE(std::get<GatedMlpSpec>(*greedy.layers[0].feed_forward).down.bias);
  const ModelSpec limited = spec_of("deepseek_v2", R"("n_group": 4, "topk_group": 2,
      "topk_method": "group_limited_greedy")");
  EXPECT_EQ(routed(limited, 2).groups, 4);
  EXPECT_EQ(routed(limited, 2).open_groups, 2);
}

TEST(LatentFamilies, Glm4MoeIsLlamaWithThatBlock) {
  const ModelSpec spec = spec_of("glm4_moe", R"("attention_bias": true, "use_qk_norm": true,
      "n_shared_experts": 3)");
  const auto& attention = std::get<AttentionSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(attention.q.bias && attention.k.bias && attention.v.bias);
  EXPECT_FALSE(attention.o.bias);
  EXPECT_EQ(attention.q_norm->size, 16);
  EXPECT_EQ(spec.ropes.front().rotated, 8);
  EXPECT_FALSE(spec.ropes.front().interleaved);
  EXPECT_TRUE(dense(spec, 0));
  EXPECT_EQ(routed(spec, 1).groups, 1);
  EXPECT_EQ(routed(spec, 1).shared->mlp.down.in, 96);
  EXPECT_FALSE(std::get<AttentionSpec>(spec_of("glm4_moe").layers[0].mixer).q_norm);
  EXPECT_TRUE(dense(spec_of("glm4_moe", R"("first_k_dense_replace": 2)"), 1));
}

TEST(LatentFamilies, CompletedConfigsGiveTheSameModel) {
  const std::string yarn = R"("rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0.5,
      "mscale_all_dim": 0.7})";
  for (const char* type : {"glm4_moe", "deepseek_v3", "deepseek_v2"}) {
    for (const std::string& more :
         {std::string(), std::string(R"("q_lora_rank": null, "n_shared_experts": 0)"),
          std::string(R"("rope_parameters": {"rope_type": "default", "rope_theta": 9000.0})"),
          std::string(type) == "glm4_moe" ? std::string() : yarn}) {
      const ModelConfig source = parse(text(type, more));
      Json config = source.root();
      require_family(source).complete_config(config, source);
      const ModelConfig again = parse(dump_json(config));
      ModelSpec expected = require_family(source).spec(source);
      const ModelSpec found = require_family(again).spec(again);
      if (more.find("yarn") == std::string::npos && std::string(type) == "deepseek_v2") {
        // Stock readers want yarn, which is written with a factor that leaves all as it is.
        EXPECT_EQ(found.ropes.front().type, RopeType::kYarn);
        EXPECT_EQ(found.ropes.front().factor, 1.0);
        EXPECT_EQ(found.ropes.front().theta, expected.ropes.front().theta);
        expected.ropes = found.ropes;
      }
      EXPECT_EQ(found, expected) << type << " " << more;
      for (const char* key : {"n_group", "topk_group", "routed_scaling_factor", "rope_theta",
                              "moe_intermediate_size", "first_k_dense_replace"}) {
        EXPECT_NE(config.find(key), nullptr) << type << " " << key;
      }
    }
  }
}

TEST(LatentFamilies, WhatDoesNotFitTogetherIsNamed) {
  const struct {
    const char* type;
    const char* more;
    const char* expected;
  } kCases[] = {
      {"glm4_moe", R"("num_experts_per_tok": 9)", "num_experts_per_tok: expected at most the 8"},
      {"glm4_moe", R"("n_group": 3)", "n_group: expected a divisor of the 8 experts, found 3"},
      {"deepseek_v3", R"("n_group": 8)", "expected groups of at least 2 experts"},
      {"deepseek_v3", R"("topk_group": 5)", "topk_group: expected at most the 4 groups"},
      {"deepseek_v3", R"("num_experts_per_tok": 5)", "at most the 4 experts of topk_group"},
      {"deepseek_v3", R"("n_group": 0)", "n_group: expected"},
      {"deepseek_v3", R"("routed_scaling_factor": 0)", "routed_scaling_factor: expected a number"},
      {"deepseek_v3", R"("qk_rope_head_dim": 7)", "qk_rope_head_dim: rotary positions need"},
      {"deepseek_v3", R"("kv_lora_rank": 16777216)", "kv_lora_rank: num_attention_heads heads"},
      {"deepseek_v3", R"("n_shared_experts": 65536, "moe_intermediate_size": 16777216)",
       "n_shared_experts * moe_intermediate_size is above"},
      {"deepseek_v3", R"("moe_layer_freq": 2)", "moe_layer_freq other than 1"},
      {"deepseek_v3", R"("scoring_func": "softmax")", "scoring_func: \"softmax\" is not supported"},
      {"deepseek_v2", R"("topk_method": "noaux_tc")", "topk_method: \"noaux_tc\" is not supported"},
      {"deepseek_v2", R"("hidden_act": "gelu")", "hidden_act: \"gelu\" is not supported"},
      {"deepseek_v2", R"("num_experts_per_tok": null)", "num_experts_per_tok"},
      {"deepseek_v3", R"("rope_scaling": {"type": "yarn", "factor": 2.0, "mscale_all_dim": -1})",
       "mscale_all_dim"},
  };
  for (const auto& c : kCases) {
    try {
      spec_of(c.type, c.more);
      ADD_FAILURE() << c.type << " " << c.more;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(c.expected), std::string::npos) << error.what();
    }
  }
}

TEST(LatentFamilies, ABareConfigPromisesWhatSourcesHold) {
  for (const char* type : {"deepseek_v3", "deepseek_v2", "glm4_moe"}) {
    const ModelConfig config = parse(text(type));
    const auto sources = sources_from_config(config, {});
    const auto has = [&](const std::string& name) {
      for (const SourceTensor& tensor : sources) {
        if (tensor.name == name) return true;
      }
      return false;
    };
    const bool latents = std::string(type) != "glm4_moe";
    EXPECT_EQ(has("model.layers.0.self_attn.kv_b_proj.weight"), latents) << type;
    EXPECT_FALSE(has("model.layers.0.self_attn.embed_q.weight")) << type;
    EXPECT_TRUE(has("model.layers.2.mlp.experts.7.down_proj.weight")) << type;
    const Inventory inventory = build_inventory(config, sources);
    EXPECT_TRUE(inventory.warnings.empty()) << type;
    std::vector<std::string> stacked;
    for (const FinalTensor& tensor : inventory.tensors) {
      EXPECT_TRUE(tensor.role.matched) << tensor.name;
      EXPECT_TRUE(tensor.obstacle.empty()) << tensor.name;
      stacked.push_back(tensor.name);
    }
    EXPECT_EQ(sources_from_config(config, stacked).size(), stacked.size()) << type;
  }
}

TEST(LatentFamilies, KeysOfALatentAreColumnsOfItsSource) {
  const ModelConfig config = parse(text("deepseek_v3"));
  const auto sources = sources_from_config(config, {});
  const Inventory inventory = build_inventory(config, sources);
  for (const FinalTensor& tensor : inventory.tensors) {
    if (tensor.name != "model.layers.1.self_attn.embed_q.weight") continue;
    EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{4, 32, 24}));
    ASSERT_TRUE(tensor.transposed);
    const SourceValue at = locate_value(tensor, 2 * 32 + 5, 7);  // head 2, row 5
    EXPECT_EQ(sources[at.tensor].name, "model.layers.1.self_attn.kv_b_proj.weight");
    EXPECT_EQ(at.row, 2u * (24 + 16) + 7);
    EXPECT_EQ(at.column, 5u);
    EXPECT_THROW(locate_value(tensor, 4 * 32, 0), Error);
    EXPECT_TRUE(tensor.packable);
    return;
  }
  FAIL();
}

TEST(LatentFamilies, MultiTokenPredictionIsLeftOut) {
  const ModelConfig config = parse(text("glm4_moe"));
  auto sources = sources_from_config(config, {});
  const std::size_t tensors = build_inventory(config, sources).tensors.size();
  sources.push_back({"model.layers.3.eh_proj.weight", DType::kBF16, {64, 128}});
  sources.push_back({"model.layers.3.mlp.gate.weight", DType::kBF16, {8, 64}});
  const Inventory inventory = build_inventory(config, sources);
  EXPECT_EQ(inventory.tensors.size(), tensors);
  EXPECT_EQ(inventory.dropped.size(), 2u);
}

}  // namespace
}  // namespace jang
