// mixtral: mistral's block with every feed-forward routed. Its weights are always divided by their
// sum. Checkpoints call the block block_sparse_moe, or mlp where they were saved as they lie in
// memory; final names have the former (final_names.cpp).
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 8;
constexpr int64_t kTopKIfAbsent = 2;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "mixtral";
  traits.window = window_size(config).value_or(0);
  traits.default_theta = 1e6;
  traits.default_eps = 1e-5;
  traits.default_positions = 4096 * 32;
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "block_sparse_moe";
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
  const LlamaTraits traits = traits_of(source);
  const MoeTraits experts = experts_of(source);
  complete_llama_config(config, source, traits, spec(source));
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  write_window(config, traits.window);
}

}  // namespace

const Family kMixtralFamily{"mixtral", spec, complete_config};

}  // namespace jang
