// The windows of qwen2, qwen2_moe and qwen3: only where use_sliding_window says so, in the layers
// that layer_types names, else by their numbers.
#pragma once

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// Layers with a window where the config has no list, N being max_window_layers.
enum class QwenWindows {
  kFromN,       // N and those behind it
  kEvenBelowN,  // every second one before it, the first of all included
};

void set_qwen_windows(const ModelConfig& config, ModelSpec& spec,
                      QwenWindows rule = QwenWindows::kFromN);
/// Writes the keys that decide about them.
void write_qwen_windows(Json& config, const ModelConfig& source, const ModelSpec& spec);

}  // namespace jang
