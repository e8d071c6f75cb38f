// qwen3, dense: llama with normed queries and keys and heads of their own size.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/qwen_windows.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "qwen3";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.qk_norm = QkNorm::kPerHead;
  traits.default_head_dim = 128;
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
  write_qwen_windows(config, source, model);
}

}  // namespace

const Family kQwen3Family{"qwen3", spec, complete_config};

}  // namespace jang
