// Every row of the table of roles, by the weights of every family that uses it.
#include "arch/roles.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace jang {
namespace {

constexpr uint64_t kMatrix[] = {8, 64};
constexpr uint64_t kVector[] = {64};
constexpr uint64_t kConvolution[] = {64, 4, 1};

struct Case {
  const char* path;
  Role role;
  Part part;
};

TEST(Roles, EveryPattern) {
  constexpr Case kCases[] = {
      // 2, 3
      {"model.embed_tokens.weight", Role::kEmbedding, Part::kNone},
      {"backbone.embeddings.weight", Role::kEmbedding, Part::kNone},
      {"language_model.model.embed_tokens_per_layer", Role::kEmbedding, Part::kNone},
      {"lm_head.weight", Role::kHead, Part::kNone},
      {"language_model.lm_head", Role::kHead, Part::kNone},
      // 4: `gate` is not `gate_proj`
      {"model.layers.0.mlp.gate.weight", Role::kRouter, Part::kNone},
      {"backbone.layers.0.mixer.gate", Role::kRouter, Part::kNone},
      {"model.layers.0.block_sparse_moe.gate", Role::kRouter, Part::kNone},
      {"model.layers.0.feed_forward.gate", Role::kRouter, Part::kNone},
      {"model.layers.0.block_sparse_moe.router.layer", Role::kRouter, Part::kNone},
      {"model.layers.0.feed_forward.router", Role::kRouter, Part::kNone},
      {"model.layers.0.mlp.router", Role::kRouter, Part::kNone},
      {"language_model.model.layers.0.router.proj", Role::kRouter, Part::kNone},
      {"model.layers.0.mlp.shared_expert_gate", Role::kRouter, Part::kNone},
      // 5
      {"model.layers.0.mlp.shared_expert.gate_proj", Role::kSharedExpert, Part::kGate},
      {"model.layers.0.mlp.shared_experts.down_proj", Role::kSharedExpert, Part::kDown},
      {"model.layers.0.shared_mlp.input_linear", Role::kSharedExpert, Part::kGateUp},
      {"model.layers.0.shared_mlp.output_linear", Role::kSharedExpert, Part::kDown},
      // 6
      {"model.layers.0.mlp.switch_mlp.gate_proj", Role::kExpert, Part::kGate},
      {"model.layers.0.experts.switch_glu.up_proj", Role::kExpert, Part::kUp},
      {"model.layers.0.mlp.experts.down_proj", Role::kExpert, Part::kDown},
      {"backbone.layers.0.mixer.switch_mlp.fc1", Role::kExpert, Part::kUp},
      {"backbone.layers.0.mixer.switch_mlp.fc2", Role::kExpert, Part::kDown},
      {"model.layers.0.feed_forward.experts.w1", Role::kExpert, Part::kGate},
      {"model.layers.0.feed_forward.experts.w3", Role::kExpert, Part::kUp},
      {"model.layers.0.feed_forward.experts.w2", Role::kExpert, Part::kDown},
      // 7
      {"model.layers.0.linear_attn.in_proj_qkvz", Role::kLinearAttention, Part::kIn},
      {"model.layers.0.linear_attn.in_proj_qkv", Role::kLinearAttention, Part::kIn},
      {"model.layers.0.linear_attn.in_proj_z", Role::kLinearAttention, Part::kIn},
      {"model.layers.0.linear_attn.in_proj_a", Role::kLinearAttention, Part::kInner},
      {"model.layers.0.linear_attn.in_proj_b", Role::kLinearAttention, Part::kInner},
      {"model.layers.0.linear_attn.in_proj_ba", Role::kLinearAttention, Part::kInner},
      {"model.layers.0.linear_attn.out_proj", Role::kLinearAttention, Part::kOut},
      {"model.layers.0.self_attn.output_gate", Role::kLinearAttention, Part::kIn},
      // 8
      {"backbone.layers.0.mixer.in_proj", Role::kSsm, Part::kIn},
      {"model.layers.0.mamba.in_proj", Role::kSsm, Part::kIn},
      {"model.layers.0.conv.in_proj", Role::kSsm, Part::kIn},
      {"model.layers.0.mamba.x_proj", Role::kSsm, Part::kInner},
      {"backbone.layers.0.mixer.dt_proj", Role::kSsm, Part::kInner},
      {"backbone.layers.0.mixer.out_proj", Role::kSsm, Part::kOut},
      {"model.layers.0.conv.out_proj", Role::kSsm, Part::kOut},
      // 9
      {"model.layers.0.self_attn.q_proj", Role::kAttention, Part::kQ},
      {"model.layers.0.self_attn.k_proj", Role::kAttention, Part::kK},
      {"model.layers.0.self_attn.v_proj", Role::kAttention, Part::kV},
      {"model.layers.0.self_attn.o_proj", Role::kAttention, Part::kO},
      {"backbone.layers.0.mixer.q_proj", Role::kAttention, Part::kQ},
      {"backbone.layers.0.mixer.o_proj", Role::kAttention, Part::kO},
      {"model.layers.0.self_attn.qkv_proj", Role::kAttention, Part::kQkv},
      {"model.layers.0.self_attn.dense", Role::kAttention, Part::kO},
      {"model.layers.0.self_attn.out_proj", Role::kAttention, Part::kO},
      {"model.layers.0.self_attn.q_a_proj", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.q_b_proj", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.kv_a_proj_with_mqa", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.kv_b_proj", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.embed_q", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.unembed_out", Role::kAttention, Part::kLatent},
      {"model.layers.0.self_attn.indexer.wq_b", Role::kAttention, Part::kLatent},
      // 10
      {"model.layers.0.mlp.gate_proj", Role::kMlp, Part::kGate},
      {"model.layers.0.mlp.up_proj", Role::kMlp, Part::kUp},
      {"model.layers.0.mlp.down_proj", Role::kMlp, Part::kDown},
      {"model.layers.0.mlp.gate_up_proj", Role::kMlp, Part::kGateUp},
      {"model.layers.0.mlp.fc1", Role::kMlp, Part::kUp},
      {"model.layers.0.mlp.fc2", Role::kMlp, Part::kDown},
      {"model.layers.0.feed_forward.gate_proj", Role::kMlp, Part::kGate},
      {"model.layers.0.feed_forward.w1", Role::kMlp, Part::kGate},
      {"model.layers.0.feed_forward.w3", Role::kMlp, Part::kUp},
      {"model.layers.0.feed_forward.w2", Role::kMlp, Part::kDown},
      {"backbone.layers.0.mixer.up_proj", Role::kMlp, Part::kUp},
      {"backbone.layers.0.mixer.down_proj", Role::kMlp, Part::kDown},
      // 11
      {"backbone.layers.0.mixer.fc1_latent_proj", Role::kAttention, Part::kLatent},
      {"backbone.layers.0.mixer.fc2_latent_proj", Role::kAttention, Part::kLatent},
      {"language_model.model.per_layer_model_projection", Role::kAttention, Part::kLatent},
      {"model.layers.0.per_layer_input_gate", Role::kAttention, Part::kLatent},
  };
  for (const Case& c : kCases) {
    const RoleMatch match = role_of(c.path, kMatrix);
    EXPECT_EQ(match.role, c.role) << c.path;
    EXPECT_EQ(match.part, c.part) << c.path;
    EXPECT_TRUE(match.matched) << c.path;
  }
}

TEST(Roles, NeverPacked) {
  for (const char* path :
       {"model.layers.0.input_layernorm.weight", "model.norm.weight", "backbone.norm_f.weight",
        "model.layers.0.self_attn.q_norm.weight", "model.layers.0.mlp.experts.gate_proj.bias",
        "backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D", "x.dt_bias",
        "model.layers.0.self_attn.sinks", "model.layers.0.mamba.conv1d.weight",
        "model.layers.0.conv.conv.weight", "model.layers.0.mlp.gate.e_score_correction_bias",
        "model.layers.0.feed_forward.expert_bias", "model.layers.0.layer_scalar",
        "model.layers.0.router.scale", "model.layers.0.router.per_expert_scale"}) {
    EXPECT_EQ(role_of(path, kMatrix).role, Role::kOther) << path;
  }
  EXPECT_EQ(role_of("model.layers.0.self_attn.q_proj.weight", kVector).role, Role::kOther);
  EXPECT_EQ(role_of("model.layers.0.linear_attn.conv1d.weight", kConvolution).role, Role::kOther);
}

TEST(Roles, MinimaxLinearLayersNeedTheModelType) {
  EXPECT_EQ(role_of("model.layers.1.self_attn.qkv_proj", kMatrix, "minimax").role,
            Role::kLinearAttention);
  EXPECT_EQ(role_of("model.layers.1.self_attn.out_proj", kMatrix, "minimax").part, Part::kOut);
  EXPECT_EQ(role_of("model.layers.0.self_attn.q_proj", kMatrix, "minimax").role, Role::kAttention);
  EXPECT_EQ(role_of("model.layers.1.self_attn.qkv_proj", kMatrix, "phi3").role, Role::kAttention);
}

TEST(Roles, LayersAndUnknownNames) {
  EXPECT_EQ(role_of("model.layers.17.mlp.up_proj", kMatrix).layer, 17);
  EXPECT_EQ(role_of("model.embed_tokens", kMatrix).layer, -1);
  EXPECT_EQ(role_of("model.layers.x.mlp.up_proj", kMatrix).layer, -1);
  for (const char* path : {"transformer.h.0.attn.c_attn", "model.layers.0.attention.wq",
                           "model.layers.0.mlp.gate_project", "x.query_key_value"}) {
    const RoleMatch match = role_of(path, kMatrix);
    EXPECT_FALSE(match.matched) << path;
    EXPECT_EQ(match.role, Role::kAttention) << path;
  }
}

// Blocks of the families: which matrices a layer of each holds.
using Paths = std::vector<const char*>;
const Paths kAttention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                          "self_attn.o_proj"};
const Paths kDense = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
const Paths kSwitch = {"mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj",
                       "mlp.switch_mlp.down_proj"};
const Paths kMixtral = {"block_sparse_moe.gate", "block_sparse_moe.switch_mlp.gate_proj",
                        "block_sparse_moe.switch_mlp.up_proj",
                        "block_sparse_moe.switch_mlp.down_proj"};
const Paths kLatent = {"self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa",
                       "self_attn.kv_b_proj", "self_attn.o_proj"};

TEST(Roles, EachFamilyUsesItsRowsAndNoOther) {
  using R = Role;
  struct FamilyCase {
    const char* model_type;
    std::vector<Paths> blocks;
    std::set<Role> roles;
  };
  const Paths shared = {"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj",
                        "mlp.shared_expert.down_proj", "mlp.shared_expert_gate"};
  const Paths shared_many = {"mlp.shared_experts.gate_proj", "mlp.shared_experts.down_proj"};
  const Paths delta = {"linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b",
                       "linear_attn.in_proj_a", "linear_attn.out_proj"};
  const Paths mamba1 = {"mixer.in_proj", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"};
  const Paths hybrid_mamba = {"mamba.in_proj", "mamba.out_proj"};
  const Paths gate = {"mlp.gate"};
  const FamilyCase kFamilies[] = {
      {"llama", {kAttention, kDense}, {R::kAttention, R::kMlp}},
      {"phi",
       {{"self_attn.dense", "self_attn.q_proj", "mlp.fc1", "mlp.fc2"}},
       {R::kAttention, R::kMlp}},
      {"phi3",
       {{"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}},
       {R::kAttention, R::kMlp}},
      {"mixtral", {kAttention, kMixtral}, {R::kRouter, R::kExpert, R::kAttention}},
      {"phimoe", {kAttention, kMixtral}, {R::kRouter, R::kExpert, R::kAttention}},
      {"minimax_m2", {kAttention, kMixtral}, {R::kRouter, R::kExpert, R::kAttention}},
      {"qwen3_moe",
       {kAttention, kSwitch, gate, kDense},
       {R::kRouter, R::kExpert, R::kAttention, R::kMlp}},
      {"olmoe", {kAttention, kSwitch, gate}, {R::kRouter, R::kExpert, R::kAttention}},
      {"granitemoe",
       {kAttention,
        {"block_sparse_moe.router.layer", "block_sparse_moe.switch_mlp.gate_proj",
         "block_sparse_moe.switch_mlp.down_proj"}},
       {R::kRouter, R::kExpert, R::kAttention}},
      {"gpt_oss",
       {kAttention, {"mlp.router", "mlp.experts.gate_proj", "mlp.experts.down_proj"}},
       {R::kRouter, R::kExpert, R::kAttention}},
      {"qwen2_moe",
       {kAttention, kSwitch, gate, shared, kDense},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kAttention, R::kMlp}},
      {"deepseek_v2",
       {kLatent, kSwitch, gate, shared_many, kDense},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kAttention, R::kMlp}},
      {"deepseek_v3",
       {{"self_attn.q_a_proj", "self_attn.embed_q", "self_attn.unembed_out", "self_attn.o_proj"},
        kSwitch,
        gate,
        shared_many,
        kDense},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kAttention, R::kMlp}},
      {"glm4_moe",
       {kAttention, kSwitch, gate, shared_many, kDense},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kAttention, R::kMlp}},
      {"qwen3_next",
       {kAttention,
        kSwitch,
        gate,
        shared,
        {"linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba", "linear_attn.out_proj"}},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kLinearAttention, R::kAttention}},
      {"qwen3_5_moe",
       {kAttention, kSwitch, gate, shared, delta},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kLinearAttention, R::kAttention}},
      {"qwen3_5", {kAttention, kDense, delta}, {R::kLinearAttention, R::kAttention, R::kMlp}},
      {"gemma4_text",
       {kAttention,
        kDense,
        {"per_layer_input_gate", "per_layer_projection", "router.proj",
         "experts.switch_glu.gate_proj"}},
       {R::kRouter, R::kExpert, R::kAttention, R::kMlp}},
      {"mamba", {mamba1}, {R::kSsm}},
      {"mamba2", {{"mixer.in_proj", "mixer.out_proj"}}, {R::kSsm}},
      {"falcon_h1",
       {kAttention, hybrid_mamba, {"feed_forward.gate_proj", "feed_forward.down_proj"}},
       {R::kSsm, R::kAttention, R::kMlp}},
      {"lfm2",
       {{"conv.in_proj", "conv.out_proj", "self_attn.q_proj", "self_attn.out_proj",
         "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"}},
       {R::kSsm, R::kAttention, R::kMlp}},
      {"lfm2_moe",
       {{"conv.in_proj", "self_attn.out_proj", "feed_forward.gate_proj", "feed_forward.gate",
         "feed_forward.switch_mlp.up_proj"}},
       {R::kRouter, R::kExpert, R::kSsm, R::kAttention, R::kMlp}},
      {"jamba",
       {kAttention,
        {"mamba.in_proj", "mamba.x_proj", "mamba.dt_proj", "feed_forward.router",
         "feed_forward.switch_mlp.up_proj", "feed_forward.gate_proj"}},
       {R::kRouter, R::kExpert, R::kSsm, R::kAttention, R::kMlp}},
      {"nemotron_h",
       {{"mixer.q_proj", "mixer.o_proj", "mixer.in_proj", "mixer.out_proj", "mixer.gate",
         "mixer.switch_mlp.fc1", "mixer.shared_experts.up_proj", "mixer.up_proj",
         "mixer.fc1_latent_proj", "mixer.fc2_latent_proj"}},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kSsm, R::kAttention, R::kMlp}},
      {"granitemoehybrid",
       {kAttention,
        hybrid_mamba,
        {"block_sparse_moe.router.layer", "block_sparse_moe.switch_mlp.up_proj",
         "shared_mlp.input_linear", "shared_mlp.output_linear"}},
       {R::kRouter, R::kSharedExpert, R::kExpert, R::kSsm, R::kAttention}},
      {"minimax",
       {kAttention,
        kMixtral,
        {"self_attn.qkv_proj", "self_attn.output_gate", "self_attn.out_proj"}},
       {R::kRouter, R::kExpert, R::kLinearAttention, R::kAttention}},
  };
  for (const FamilyCase& family : kFamilies) {
    std::set<Role> found;
    for (const Paths& block : family.blocks) {
      for (const char* path : block) {
        const std::string full = std::string("model.layers.3.") + path + ".weight";
        const RoleMatch match = role_of(full, kMatrix, family.model_type);
        EXPECT_TRUE(match.matched) << family.model_type << " " << full;
        found.insert(match.role);
      }
    }
    EXPECT_EQ(found, family.roles) << family.model_type;
  }
}

TEST(Roles, Names) {
  EXPECT_EQ(role_name(Role::kSharedExpert), "shared_expert");
  EXPECT_EQ(role_name(Role::kLinearAttention), "linear_attention");
}

}  // namespace
}  // namespace jang
