// granite, dense: llama whose embedding, attention scores, branches and logits are each multiplied
// by a constant of the config.
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

double multiplier(const ModelConfig& config, std::string_view key) {
  const double value = config.number(key).value_or(1.0);
  if (!std::isfinite(value) || value <= 0) config.fail(key, "expected a finite number above 0");
  return value;
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "granite";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.scale = multiplier(config, "attention_multiplier");
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  model.embedding.scale = static_cast<float>(multiplier(config, "embedding_multiplier"));
  model.head.multiplier = static_cast<float>(1.0 / multiplier(config, "logits_scaling"));
  const auto residual = static_cast<float>(multiplier(config, "residual_multiplier"));
  for (LayerSpec& layer : model.layers) layer.residual = residual;
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
  for (const char* key :
       {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"}) {
    config[key] = multiplier(source, key);
  }
}

}  // namespace

const Family kGraniteFamily{"granite", spec, complete_config};

}  // namespace jang
