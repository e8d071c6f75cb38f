// glm4: llama with norms on both sides of each block, interleaved rotary positions on half of each
// head, and gate and up in one matrix. post_attention_layernorm is the norm before the
// feed-forward.
#include "arch/families/families.h"
#include "arch/families/fused_blocks.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kHeadDimIfAbsent = 128;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "glm4";
  traits.attention_bias = config.boolean("attention_bias").value_or(true);
  traits.default_head_dim = kHeadDimIfAbsent;
  traits.default_eps = 1.5625e-7;
  traits.default_positions = 131072;
  traits.rope.partial = 0.5;
  traits.rope.interleaved = true;
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    LayerSpec& layer = model.layers[i];
    const auto norm = [&](const char* name) {
      NormSpec post = *layer.pre_norm;
      post.path = base + name;
      return post;
    };
    layer.post_norm = norm("post_self_attn_layernorm");
    layer.ff_post_norm = norm("post_mlp_layernorm");
    std::get<AttentionSpec>(layer.mixer).o.bias = false;
    fuse_gate_up(std::get<GatedMlpSpec>(*layer.feed_forward), base + "mlp.gate_up_proj");
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
}

}  // namespace

const Family kGlm4Family{"glm4", spec, complete_config};

}  // namespace jang
