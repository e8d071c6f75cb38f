// llama 1 to 3.x: optional biases on all attention or all feed-forward projections, llama3 rotary
// scaling.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "llama";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.default_positions = 2048;
  traits.kv_heads_may_be_absent = true;
  return traits;
}

ModelSpec spec(const ModelConfig& config) { return llama_spec(config, traits_of(config)); }

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
}

}  // namespace

const Family kLlamaFamily{"llama", spec, complete_config};

}  // namespace jang
