// granite, dense: llama whose embedding, attention scores, branches and logits are each multiplied
// by a constant of the config.
#include "arch/families/families.h"
#include "arch/families/granite_multipliers.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "granite";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.scale = granite_multiplier(config, "attention_multiplier");
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  set_granite_multipliers(config, model);
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
  write_granite_multipliers(config, source);
}

}  // namespace

const Family kGraniteFamily{"granite", spec, complete_config};

}  // namespace jang
