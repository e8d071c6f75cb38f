#include "arch/families/granite_multipliers.h"

#include <cmath>

namespace jang {

double granite_multiplier(const ModelConfig& config, std::string_view key) {
  const double value = config.number(key).value_or(1.0);
  if (!std::isfinite(value) || value <= 0) config.refuse(key, "a finite number above 0");
  return value;
}

void set_granite_multipliers(const ModelConfig& config, ModelSpec& spec) {
  spec.embedding.scale = static_cast<float>(granite_multiplier(config, "embedding_multiplier"));
  spec.head.multiplier = static_cast<float>(1.0 / granite_multiplier(config, "logits_scaling"));
  const auto residual = static_cast<float>(granite_multiplier(config, "residual_multiplier"));
  for (LayerSpec& layer : spec.layers) layer.residual = residual;
}

void write_granite_multipliers(Json& config, const ModelConfig& source) {
  for (const char* key :
       {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"}) {
    config[key] = granite_multiplier(source, key);
  }
}

}  // namespace jang
