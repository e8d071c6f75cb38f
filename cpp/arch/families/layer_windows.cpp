// layer_types read strictly: a word that stands for another mixer must not pass as attention.
#include "arch/families/layer_windows.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace jang {

std::vector<bool> windowed_layers(const ModelConfig& config, int64_t layers,
                                  const std::function<bool(int64_t)>& rule) {
  std::vector<bool> windowed;
  windowed.reserve(static_cast<std::size_t>(layers));
  const Json* list = config.find("layer_types");
  if (list == nullptr) {
    for (int64_t i = 0; i < layers; ++i) windowed.push_back(rule(i));
    return windowed;
  }
  if (!list->is_array()) config.fail("layer_types", "expected a list of words or null");
  for (const Json& entry : list->as_array()) {
    const std::string word = entry.is_string() ? entry.as_string() : std::string("no word");
    if (word != "sliding_attention" && word != "full_attention") {
      config.fail("layer_types", "expected sliding_attention or full_attention, found " +
                                     word.substr(0, 40) + " for layer " +
                                     std::to_string(windowed.size()));
    }
    windowed.push_back(word == "sliding_attention");
  }
  if (static_cast<int64_t>(windowed.size()) != layers) {
    config.fail("layer_types", "expected one entry for each of the " + std::to_string(layers) +
                                   " layers, found " + std::to_string(windowed.size()));
  }
  return windowed;
}

void set_windows(ModelSpec& spec, const std::vector<bool>& windowed, int64_t window) {
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    std::get<AttentionSpec>(spec.layers[i].mixer).window = windowed[i] ? window : 0;
  }
}

std::optional<int64_t> window_pattern(const std::vector<bool>& windowed) {
  const auto first = std::find(windowed.begin(), windowed.end(), false);
  const int64_t pattern = first - windowed.begin() + 1;
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    if (windowed[i] != ((static_cast<int64_t>(i) + 1) % pattern != 0)) return std::nullopt;
  }
  return pattern;
}

void write_layer_types(Json& config, const ModelSpec& spec) {
  Json::Array types;
  for (const LayerSpec& layer : spec.layers) {
    const bool windowed = std::get<AttentionSpec>(layer.mixer).window != 0;
    types.emplace_back(windowed ? "sliding_attention" : "full_attention");
  }
  config["layer_types"] = types;
}

}  // namespace jang
