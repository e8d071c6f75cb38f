#include "arch/families/qwen_windows.h"

#include "arch/families/layer_windows.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kWindowIfAbsent = 4096;
constexpr int64_t kFirstLayerIfAbsent = 28;

int64_t window_of(const ModelConfig& config) {
  if (!config.boolean("use_sliding_window").value_or(false)) return 0;
  const int64_t absent = config.contains("sliding_window") ? 0 : kWindowIfAbsent;
  return window_size(config).value_or(absent);
}

int64_t first_layer(const ModelConfig& config) {
  return config.integer("max_window_layers", 0, ModelConfig::kMaxLayers)
      .value_or(kFirstLayerIfAbsent);
}

}  // namespace

void set_qwen_windows(const ModelConfig& config, ModelSpec& spec) {
  const int64_t first = first_layer(config);
  const auto windowed = windowed_layers(config, static_cast<int64_t>(spec.layers.size()),
                                        [first](int64_t layer) { return layer >= first; });
  set_windows(spec, windowed, window_of(config));
}

void write_qwen_windows(Json& config, const ModelConfig& source, const ModelSpec& spec) {
  const int64_t window = window_of(source);
  config["use_sliding_window"] = window != 0;
  config["max_window_layers"] = first_layer(source);
  write_window(config, window);
  write_layer_types(config, spec);
}

}  // namespace jang
