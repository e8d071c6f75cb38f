// The block that llama and its descendants share: pre-norms, grouped-query attention with rotary
// positions, gated SiLU feed-forward. What differs is said in LlamaTraits; a family with experts
// puts a routed block in the place of the dense one (moe_block).
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "arch/config.h"
#include "arch/rope_config.h"
#include "arch/spec.h"

namespace jang {

enum class QkNorm {
  kNone,
  kPerHead,  // each head's queries and keys by one gain of head_dim
  kAcross,   // all heads together, before they are split
};

/// Where a branch is normed: before it, behind it (then the residual enters as it is), or both.
enum class BranchNorms { kPre, kPost, kPreAndPost };

struct LlamaTraits {
  std::string_view model_type;
  bool attention_bias = false;
  bool mlp_bias = false;
  int64_t window = 0;              // on every layer; 0: none
  QkNorm qk_norm = QkNorm::kNone;  // before rotary
  double default_theta = 10000.0;
  double default_eps = 1e-6;
  std::string_view eps_key = "rms_norm_eps";
  int64_t default_head_dim = 0;  // 0: hidden_size / num_attention_heads
  int64_t default_positions = 2048;
  bool kv_heads_may_be_absent = false;  // then as many as query heads
  bool own_activation = false;          // the family reads hidden_act itself; else it is silu
  RopeRules rope = {};                  // but for theta and positions, which stand above
  bool qkv_bias = false;                // of q, k and v alone, whatever attention_bias says
  NormKind norm_kind = NormKind::kRms;  // of all norms
  BranchNorms branch_norms = BranchNorms::kPre;
  Activation activation = Activation::kSilu;  // any other is the family's to read
  int64_t default_heads = 0;                  // 0: the key is required; so below
  int64_t default_kv_heads = 0;
  int64_t default_vocabulary = 0;
  int64_t default_intermediate = 0;
  std::optional<double> scale = {};  // on q.k, else head_dim^-1/2
  std::vector<RopeSpec> ropes = {};  // empty: one, read from the config
};

/// The numbers of a norm's epsilon: `key`, from 0 to 1, or `fallback`.
float norm_epsilon(const ModelConfig& config, std::string_view key, double fallback);

ModelSpec llama_spec(const ModelConfig& config, const LlamaTraits& traits);

/// sliding_window of the config; null and absent are none.
std::optional<int64_t> window_size(const ModelConfig& config);
/// Writes it out: null where `window` is 0.
void write_window(Json& config, int64_t window);

struct MoeTraits {
  std::string_view block;  // "mlp": the module that holds router and experts
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t width = 0;  // of an expert
  bool renormalize = false;
  std::string_view router = "gate";  // in the block
  RouterRule rule = RouterRule::kSoftmaxThenTopK;
  float jitter = 0.0f;
  std::string_view correction = {};  // in the block: what choices add to scores; empty: nothing
  std::string_view stacks = "switch_mlp";  // in the block: the module of the experts
  bool bias = false;                       // of the router and of the experts
};

/// num_experts in either spelling; `fallback` if the config has none.
int64_t expert_count(const ModelConfig& config, int64_t fallback);

/// decoder_sparse_step: every so many layers are routed; 1 if absent.
int64_t sparse_step(const ModelConfig& config);
/// mlp_only_layers: layers that are not, whatever the step.
std::set<int64_t> mlp_only_layers(const ModelConfig& config);

/// The routed block of layer `layer`: its router and experts. Refuses no experts,
/// no choice, and more choices than experts.
MoeSpec moe_block(const ModelConfig& config, int64_t layer, int64_t hidden,
                  const MoeTraits& traits);

/// Explicit values for all that stock mlx-lm would default differently or not read in the newer
/// spelling.
void complete_llama_config(Json& config, const ModelConfig& source, const LlamaTraits& traits,
                           const ModelSpec& spec);

}  // namespace jang
