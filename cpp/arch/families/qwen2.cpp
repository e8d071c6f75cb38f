// qwen2 (and 2.5): llama with biases on queries, keys and values, and none elsewhere.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/qwen_windows.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig&) {
  LlamaTraits traits;
  traits.model_type = "qwen2";
  traits.qkv_bias = true;
  traits.default_positions = 32768;
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  set_qwen_windows(config, model);
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits_of(source), model);
  // The biases are the architecture's, not a choice.
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (!source.contains(key)) config.as_object().erase(key);
  }
  write_qwen_windows(config, source, model);
}

}  // namespace

const Family kQwen2Family{"qwen2", spec, complete_config};

}  // namespace jang
