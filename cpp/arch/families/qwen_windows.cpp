#include "arch/families/qwen_windows.h"

#include "arch/families/layer_windows.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr int64_t kWindowIfAbsent = 4096;
constexpr int64_t kLayersIfAbsent = 28;

int64_t window_of(const ModelConfig& config) {
  if (!config.boolean("use_sliding_window").value_or(false)) return 0;
  const int64_t absent = config.contains("sliding_window") ? 0 : kWindowIfAbsent;
  return window_size(config).value_or(absent);
}

int64_t window_layers(const ModelConfig& config) {
  return config.integer("max_window_layers", 0, ModelConfig::kMaxLayers).value_or(kLayersIfAbsent);
}

}  // namespace

void set_qwen_windows(const ModelConfig& config, ModelSpec& spec, QwenWindows rule) {
  const int64_t number = window_layers(config);
  const auto by_number = [=](int64_t layer) {
    return rule == QwenWindows::kFromN ? layer >= number : layer < number && layer % 2 == 0;
  };
  const auto windowed =
      windowed_layers(config, static_cast<int64_t>(spec.layers.size()), by_number);
  set_windows(spec, windowed, window_of(config));
}

void write_qwen_windows(Json& config, const ModelConfig& source, const ModelSpec& spec) {
  const int64_t window = window_of(source);
  config["use_sliding_window"] = window != 0;
  config["max_window_layers"] = window_layers(source);
  write_window(config, window);
  write_layer_types(config, spec);
}

}  // namespace jang
