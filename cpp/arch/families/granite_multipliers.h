// The four constants of granite models: embedding, attention scores, branches and logits are each
// multiplied by one. Leaves the blocks to the families that share them.
#pragma once

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// One of attention_multiplier, embedding_multiplier, residual_multiplier and logits_scaling: 1 if
/// absent. Error{kConfigValue} for what is not a finite number above 0.
double granite_multiplier(const ModelConfig& config, std::string_view key);

/// Sets those that `spec` keeps outside of its mixers; attention_multiplier is their scale.
void set_granite_multipliers(const ModelConfig& config, ModelSpec& spec);

/// Writes all four, whatever the source says of them.
void write_granite_multipliers(Json& config, const ModelConfig& source);

}  // namespace jang
