// glm4_moe (GLM-4.5): llama's block with half of each head rotated, norms of queries and keys where
// the config wants them, and from first_k_dense_replace on deepseek's routed block.
#include "arch/families/families.h"
#include "arch/families/grouped_moe.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "glm4_moe";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  if (config.boolean("use_qk_norm").value_or(false)) traits.qk_norm = QkNorm::kPerHead;
  traits.default_eps = 1e-5;
  traits.default_positions = 131072;
  traits.default_heads = 96;
  traits.default_kv_heads = 8;
  traits.rope.partial = 0.5;
  return traits;
}

GroupedMoeTraits experts_of() {
  GroupedMoeTraits traits;
  traits.experts = 128;
  traits.top_k = 8;
  traits.width = 1408;
  traits.dense_layers = 1;
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const GroupedMoeTraits experts = experts_of();
  const int64_t first = first_routed_layer(config, experts);
  for (int64_t i = 0; i < static_cast<int64_t>(model.layers.size()); ++i) {
    LayerSpec& layer = model.layers[static_cast<std::size_t>(i)];
    std::get<AttentionSpec>(layer.mixer).o.bias = false;
    if (i < first) continue;
    layer.feed_forward =
        grouped_moe(config, "model.layers." + std::to_string(i) + ".mlp.", model.hidden, experts);
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits_of(source), model);
  complete_grouped_moe(config, source, experts_of());
  const auto& mixer = std::get<AttentionSpec>(model.layers.front().mixer);
  config["num_attention_heads"] = mixer.n_heads;
  config["use_qk_norm"] = mixer.q_norm.has_value();
}

}  // namespace

const Family kGlm4MoeFamily{"glm4_moe", spec, complete_config};

}  // namespace jang
