// phi3, and phi4 which is phi3 with other numbers: llama with fused projections, heads that may
// turn in part, and longrope.
#include "arch/families/families.h"
#include "arch/families/fused_blocks.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kOriginalPositionsIfAbsent = 4096;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "phi3";
  traits.window = window_size(config).value_or(0);
  traits.default_eps = 1e-5;
  traits.default_positions = 4096;
  traits.kv_heads_may_be_absent = true;
  traits.rope.partial = 1.0;
  traits.rope.original_positions = kOriginalPositionsIfAbsent;
  traits.rope.yarn_is_longrope = true;
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    LayerSpec& layer = model.layers[i];
    fuse_qkv(std::get<AttentionSpec>(layer.mixer), base + "self_attn.qkv_proj");
    fuse_gate_up(std::get<GatedMlpSpec>(*layer.feed_forward), base + "mlp.gate_up_proj");
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of(source);
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits, model);
  write_window(config, traits.window);
  const RopeSpec& rope = model.ropes.front();
  if (rope.type == RopeType::kLongRope) {
    config["original_max_position_embeddings"] = rope.original_positions;
  }
}

}  // namespace

const Family kPhi3Family{"phi3", spec, complete_config};

}  // namespace jang
