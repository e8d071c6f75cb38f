// gemma3's text model, alone or inside the multimodal gemma3: gemma2's norms, queries and keys
// normed per head, and two kinds of layers with a rotary table each. Written flat, as gemma3_text.
#include "arch/families/families.h"
#include "arch/families/gemma_blocks.h"
#include "arch/families/layer_windows.h"
#include "arch/rope_config.h"

namespace jang {
namespace {

constexpr std::string_view kActivation = "hidden_activation";
constexpr std::string_view kLogitCap = "final_logit_softcapping";
constexpr std::string_view kFull = "full_attention";
constexpr std::string_view kSliding = "sliding_attention";
constexpr int64_t kPatternIfAbsent = 6;  // every sixth layer sees all positions

int64_t head_dim(const ModelConfig& config) {
  return config.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(256);
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits = gemma_traits(config, "gemma3_text", kActivation);
  traits.branch_norms = BranchNorms::kPreAndPost;
  traits.qk_norm = QkNorm::kPerHead;
  traits.scale = query_scale(config);
  traits.default_positions = 131072;
  // The text part of a multimodal file may leave these out.
  traits.default_heads = 8;
  traits.default_kv_heads = 4;
  traits.default_vocabulary = 262208;
  const int64_t dim = head_dim(config);
  traits.ropes = {
      read_layer_rope(config, kFull, "rope_theta", true, dim, 1e6, traits.default_positions),
      read_layer_rope(config, kSliding, "rope_local_base_freq", false, dim, 1e4,
                      traits.default_positions)};
  return traits;
}

int64_t pattern_of(const ModelConfig& config) {
  for (const std::string_view key : {"sliding_window_pattern", "_sliding_window_pattern"}) {
    if (const auto pattern = config.integer(key, 1, ModelConfig::kMaxLayers)) return *pattern;
  }
  return kPatternIfAbsent;
}

std::vector<bool> windows_of(const ModelConfig& config, const ModelSpec& model) {
  const int64_t pattern = pattern_of(config);
  return windowed_layers(config, static_cast<int64_t>(model.layers.size()),
                         [pattern](int64_t layer) { return (layer + 1) % pattern != 0; });
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = gemma_spec(config, traits_of(config));
  model.head.softcap = soft_cap(config, kLogitCap, 0.0f);
  const std::vector<bool> windowed = windows_of(config, model);
  set_windows(model, windowed, gemma_window(config));
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    std::get<AttentionSpec>(model.layers[i].mixer).rope = windowed[i] ? 1 : 0;
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of(source);
  const ModelSpec model = spec(source);
  if (source.root().find("text_config") != nullptr)
    config = flat_text_config(source, "gemma3_text", "Gemma3ForCausalLM");
  complete_gemma_config(config, source, traits, model, kActivation);
  write_layer_rope(config, source, model.ropes[0], kFull);
  config["rope_local_base_freq"] = model.ropes[1].theta;
  write_soft_cap(config, kLogitCap, model.head.softcap);
  write_window(config, gemma_window(source));
  const std::vector<bool> windowed = windows_of(source, model);
  // Null where there is none: stock readers know no lists.
  config["sliding_window_pattern"] = nullptr;
  if (const auto pattern = window_pattern(windowed)) config["sliding_window_pattern"] = *pattern;
  Json::Array types;
  for (const bool sliding : windowed) types.emplace_back(sliding ? kSliding : kFull);
  config["layer_types"] = types;
}

}  // namespace

const Family kGemma3TextFamily{"gemma3_text", spec, complete_config, "gemma3"};

}  // namespace jang
