// The windows of dense qwen models: only where use_sliding_window says so, from layer
// max_window_layers up unless layer_types says otherwise.
#pragma once

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

void set_qwen_windows(const ModelConfig& config, ModelSpec& spec);
/// Writes the keys that decide about them.
void write_qwen_windows(Json& config, const ModelConfig& source, const ModelSpec& spec);

}  // namespace jang
