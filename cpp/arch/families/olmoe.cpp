// olmoe: llama's block with queries and keys normed over all heads together and, with the values,
// kept within limits; every feed-forward is routed. intermediate_size is the width of an expert.
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 64;
constexpr int64_t kTopKIfAbsent = 8;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "olmoe";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.qk_norm = QkNorm::kAcross;
  traits.default_eps = 1e-5;
  traits.default_positions = 4096;
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "mlp";
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  traits.renormalize = config.boolean("norm_topk_prob").value_or(false);
  return traits;
}

float clip_of(const ModelConfig& config) {
  const auto limit = config.number("clip_qkv");
  if (!limit) return 0.0f;
  const auto clip = static_cast<float>(*limit);
  if (!std::isfinite(clip) || clip <= 0.0f)
    config.refuse("clip_qkv", "null or a finite number above 0");
  return clip;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  const float clip = clip_of(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    std::get<AttentionSpec>(layer.mixer).clip = clip;
    layer.feed_forward = moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const MoeTraits experts = experts_of(source);
  complete_llama_config(config, source, traits_of(source), spec(source));
  config["num_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["norm_topk_prob"] = experts.renormalize;
}

}  // namespace

const Family kOlmoeFamily{"olmoe", spec, complete_config};

}  // namespace jang
