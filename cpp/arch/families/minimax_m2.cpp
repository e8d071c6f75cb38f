// minimax_m2: mixtral's block with queries and keys normed over all heads together, heads that turn
// in part, and experts chosen by logistic scores with a correction that does not weigh them.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 256;
constexpr int64_t kTopKIfAbsent = 8;
constexpr int64_t kHeadDimIfAbsent = 128;

/// The first checkpoints say how many channels turn, not which part of a head.
double rotated_part(const ModelConfig& config) {
  const int64_t dim =
      config.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(kHeadDimIfAbsent);
  const int64_t rotated = config.integer("rotary_dim", 2, dim).value_or(dim);
  return static_cast<double>(rotated) / static_cast<double>(dim);
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "minimax_m2";
  traits.qk_norm = QkNorm::kAcross;
  traits.default_theta = 5e6;
  traits.default_head_dim = kHeadDimIfAbsent;
  traits.default_positions = 196608;
  traits.rope.partial = rotated_part(config);
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "block_sparse_moe";
  traits.rule = RouterRule::kSigmoid;
  traits.correction = "e_score_correction_bias";
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  traits.renormalize = true;
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    model.layers[i].feed_forward =
        moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const MoeTraits experts = experts_of(source);
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits_of(source), model);
  config["rotary_dim"] = model.ropes.front().rotated;
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  // Stock reads it and has no such block.
  if (source.find("shared_intermediate_size") == nullptr) config["shared_intermediate_size"] = 0;
}

}  // namespace

const Family kMiniMaxM2Family{"minimax_m2", spec, complete_config};

}  // namespace jang
