// granitemoe: granite with every feed-forward routed; the softmax is over the chosen experts alone.
// Checkpoints fuse all experts' gate and up rows in input_linear (split_tensor.cpp).
#include "arch/families/families.h"
#include "arch/families/granite_multipliers.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 8;
constexpr int64_t kTopKIfAbsent = 2;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "granitemoe";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.scale = granite_multiplier(config, "attention_multiplier");
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "block_sparse_moe";
  traits.router = "router.layer";
  traits.rule = RouterRule::kTopKThenSoftmax;
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    model.layers[i].feed_forward =
        moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
  }
  set_granite_multipliers(config, model);
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const MoeTraits experts = experts_of(source);
  complete_llama_config(config, source, traits_of(source), spec(source));
  write_granite_multipliers(config, source);
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
}

}  // namespace

const Family kGraniteMoeFamily{"granitemoe", spec, complete_config};

}  // namespace jang
