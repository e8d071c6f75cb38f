// qwen3_next: the delta rule's inputs lie in two matrices, by key head; most layers are routed.
#include "arch/families/families.h"
#include "arch/families/qwen_hybrid.h"
#include "arch/zero_centred_norms.h"

namespace jang {
namespace {

constexpr QwenHybridTraits kTraits{.model_type = "qwen3_next",
                                   .prefix = "",
                                   .packed_inputs = true,
                                   .routed = true,
                                   .dense_layers = true,
                                   .default_experts = 512,
                                   .default_top_k = 10};

ModelSpec spec(const ModelConfig& config) { return qwen_hybrid_spec(config, kTraits); }

void complete_config(Json& config, const ModelConfig& source) {
  complete_qwen_hybrid(config, source, kTraits);
  config[kNormsShiftedKey] = true;
}

}  // namespace

const Family kQwen3NextFamily{"qwen3_next", spec, complete_config};

}  // namespace jang
