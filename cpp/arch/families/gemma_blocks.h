// What the generations of gemma share beyond llama: a feed-forward gated by GELU, an embedding
// multiplied by the root of its size and, in the first three, gains stored as w - 1.
#pragma once

#include <optional>
#include <string_view>

#include "arch/families/llama_blocks.h"

namespace jang {

/// Defaults of the first three, for the family to add to. `activation_key`: where it names its
/// GELU. Error{kUnsupportedModel} for another activation and for attention without a causal mask;
/// `of_images`: what use_bidirectional_attention is where it speaks of other tokens than text.
LlamaTraits gemma_traits(const ModelConfig& config, std::string_view model_type,
                         std::string_view activation_key, std::string_view of_images = {});
/// llama_spec, and the embedding's factor: sqrt(hidden) rounded to the dtype of the config, in
/// which the model was trained, whatever it is computed in.
ModelSpec gemma_spec(const ModelConfig& config, const LlamaTraits& traits);

/// sqrt(n), rounded like the embedding's factor.
float trained_root(const ModelConfig& config, int64_t n);

/// A wrapper's text part in its place, under these names; what belongs to the whole checkpoint is
/// kept.
Json flat_text_config(const ModelConfig& source, std::string_view model_type,
                      std::string_view architecture);

/// query_pre_attn_scalar^-1/2.
double query_scale(const ModelConfig& config);
/// A cap on scores or logits: `fallback` if the key is absent, 0 (none) if it is null.
float soft_cap(const ModelConfig& config, std::string_view key, float fallback);
/// sliding_window, 4096 if the key is absent, 0 if it is null.
int64_t gemma_window(const ModelConfig& config);

/// Beyond complete_llama_config: the activation's name, and what later generations leave out.
void complete_gemma_config(Json& config, const ModelConfig& source, const LlamaTraits& traits,
                           const ModelSpec& spec, std::string_view activation_key);
void write_soft_cap(Json& config, std::string_view key, float cap);

}  // namespace jang
