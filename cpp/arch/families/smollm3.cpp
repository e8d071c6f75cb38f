// smollm3: llama with some layers that have no rotary positions, every fourth unless a list names
// them; where windows are used, it is these layers that have one.
#include <vector>

#include "arch/families/families.h"
#include "arch/families/layer_windows.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "smollm3";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.default_theta = 2e6;
  traits.default_positions = 32768;
  traits.default_kv_heads = 4;
  return traits;
}

/// no_rope_layers, where 1 means that a layer has rotary positions; a list may be longer than the
/// model.
std::vector<bool> rotary_layers(const ModelConfig& config, int64_t layers) {
  std::vector<bool> rotary(static_cast<std::size_t>(layers), true);
  const Json* list = config.find("no_rope_layers");
  if (list == nullptr) {
    const int64_t interval =
        config.integer("no_rope_layer_interval", 1, ModelConfig::kMaxLayers).value_or(4);
    for (int64_t i = interval - 1; i < layers; i += interval) {
      rotary[static_cast<std::size_t>(i)] = false;
    }
    return rotary;
  }
  if (!list->is_array() || static_cast<int64_t>(list->as_array().size()) < layers) {
    config.fail("no_rope_layers",
                "expected a list with at least " + std::to_string(layers) + " entries, or null");
  }
  for (std::size_t i = 0; i < rotary.size(); ++i) {
    int64_t flag = 0;
    if (!list->as_array()[i].get_integer(0, 1, flag)) {
      config.fail("no_rope_layers", "expected 0 or 1 in entry " + std::to_string(i));
    }
    rotary[i] = flag == 1;
  }
  return rotary;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const auto layers = static_cast<int64_t>(model.layers.size());
  const std::vector<bool> rotary = rotary_layers(config, layers);
  for (std::size_t i = 0; i < rotary.size(); ++i) {
    if (!rotary[i]) std::get<AttentionSpec>(model.layers[i].mixer).rope = -1;
  }
  const bool windows = config.boolean("use_sliding_window").value_or(false);
  const auto windowed = windowed_layers(config, layers, [&](int64_t layer) {
    return windows && !rotary[static_cast<std::size_t>(layer)];
  });
  set_windows(model, windowed, window_size(config).value_or(0));
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits_of(source), model);
  Json::Array rotary;
  bool windows = false;
  for (const LayerSpec& layer : model.layers) {
    const auto& mixer = std::get<AttentionSpec>(layer.mixer);
    rotary.emplace_back(mixer.rope >= 0 ? 1 : 0);
    windows = windows || mixer.window != 0;
  }
  config["no_rope_layers"] = rotary;
  config["use_sliding_window"] = windows;
  write_window(config, window_size(source).value_or(0));
  write_layer_types(config, model);
}

}  // namespace

const Family kSmolLm3Family{"smollm3", spec, complete_config};

}  // namespace jang
