// The block that llama and its descendants share: pre-norms, grouped-query attention with rotary
// positions, gated SiLU feed-forward. What differs is said in LlamaTraits.
#pragma once

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

struct LlamaTraits {
  std::string_view model_type;
  bool attention_bias = false;
  bool mlp_bias = false;
  int64_t window = 0;  // on every layer; 0: none
  int64_t default_positions = 2048;
  bool kv_heads_may_be_absent = false;  // then as many as query heads
};

ModelSpec llama_spec(const ModelConfig& config, const LlamaTraits& traits);

/// Explicit values for all that stock mlx-lm would default differently or not read in the newer
/// spelling.
void complete_llama_config(Json& config, const ModelConfig& source, const ModelSpec& spec);

}  // namespace jang
