// qwen3_5 and qwen3_5_moe: four matrices before the delta rule; text models, alone or below the
// text_config of a multimodal one. Their module paths begin with language_model in either case, and
// stock mlx-lm knows them by the outer name only.
#include "arch/families/families.h"
#include "arch/families/qwen_hybrid.h"
#include "arch/zero_centred_norms.h"

namespace jang {
namespace {

constexpr QwenHybridTraits kDense{.model_type = "qwen3_5", .prefix = "language_model."};
constexpr QwenHybridTraits kRouted{.model_type = "qwen3_5_moe",
                                   .prefix = "language_model.",
                                   .routed = true,
                                   .always_renormalize = true,
                                   .default_experts = 256,
                                   .default_top_k = 8};

void complete(Json& config, const ModelConfig& source, const QwenHybridTraits& traits) {
  const bool wrapped = source.root().find("text_config") != nullptr;
  complete_qwen_hybrid(wrapped ? config["text_config"] : config, source, traits);
  config["model_type"] = traits.model_type;
  config[kNormsShiftedKey] = true;
}

ModelSpec dense_spec(const ModelConfig& config) { return qwen_hybrid_spec(config, kDense); }
ModelSpec routed_spec(const ModelConfig& config) { return qwen_hybrid_spec(config, kRouted); }
void complete_dense(Json& config, const ModelConfig& source) { complete(config, source, kDense); }
void complete_routed(Json& config, const ModelConfig& source) { complete(config, source, kRouted); }

}  // namespace

const Family kQwen35Family{"qwen3_5", dense_spec, complete_dense, "qwen3_5"};
const Family kQwen35MoeFamily{"qwen3_5_moe", routed_spec, complete_routed, "qwen3_5_moe"};

}  // namespace jang
