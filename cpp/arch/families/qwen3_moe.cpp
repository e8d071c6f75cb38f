// qwen3_moe: llama's block with normed queries and keys; the feed-forward of every
// decoder_sparse_step-th layer is routed unless mlp_only_layers names the layer.
#include <set>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 128;
constexpr int64_t kTopKIfAbsent = 8;
constexpr int64_t kWidthIfAbsent = 768;
constexpr int64_t kWindowIfAbsent = 4096;  // where a window is asked for without a size

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "qwen3_moe";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.qk_norm = QkNorm::kPerHead;
  if (config.boolean("use_sliding_window").value_or(false)) {
    traits.window = window_size(config).value_or(kWindowIfAbsent);
  }
  traits.default_positions = 32768;
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "mlp";
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width =
      config.integer("moe_intermediate_size", 1, ModelConfig::kMaxDim).value_or(kWidthIfAbsent);
  traits.renormalize = config.boolean("norm_topk_prob").value_or(false);
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  const std::set<int64_t> dense = mlp_only_layers(config);
  const int64_t step = sparse_step(config);
  for (int64_t i = 0; i < static_cast<int64_t>(model.layers.size()); ++i) {
    if ((i + 1) % step != 0 || dense.contains(i)) continue;
    model.layers[static_cast<std::size_t>(i)].feed_forward =
        moe_block(config, i, model.hidden, experts);
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of(source);
  const MoeTraits experts = experts_of(source);
  complete_llama_config(config, source, traits, spec(source));
  config["num_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["moe_intermediate_size"] = experts.width;
  config["norm_topk_prob"] = experts.renormalize;
  config["decoder_sparse_step"] = sparse_step(source);
  Json::Array dense;
  for (const int64_t layer : mlp_only_layers(source)) dense.emplace_back(layer);
  config["mlp_only_layers"] = dense;
  config["use_sliding_window"] = traits.window != 0;
  write_window(config, traits.window);
}

}  // namespace

const Family kQwen3MoeFamily{"qwen3_moe", spec, complete_config};

}  // namespace jang
