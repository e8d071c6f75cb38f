// What qwen3_next and the qwen3_5 families share: gated attention in every few layers, a gated
// delta rule in the others, normed queries and keys, partial rotary positions.
#pragma once

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

struct QwenHybridTraits {
  std::string_view model_type;
  std::string_view prefix;          // of module paths: "", "language_model."
  bool packed_inputs = false;       // of the delta rule: in_proj_qkvz and in_proj_ba
  bool routed = false;              // experts and a gated shared one, else a dense feed-forward
  bool dense_layers = false;        // routed: decoder_sparse_step and mlp_only_layers are read
  bool always_renormalize = false;  // routed: norm_topk_prob is not read
  int64_t default_experts = 0;
  int64_t default_top_k = 0;
};

ModelSpec qwen_hybrid_spec(const ModelConfig& config, const QwenHybridTraits& traits);

/// Explicit values of all that stock mlx-lm reads, in `text`, the object of the text settings.
/// Error{kUnsupportedModel} for layer types in an order that it cannot be told.
void complete_qwen_hybrid(Json& text, const ModelConfig& source, const QwenHybridTraits& traits);

}  // namespace jang
