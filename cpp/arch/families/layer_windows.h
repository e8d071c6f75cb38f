// Which layers look back through a window: a list in the config, or the family's rule where the
// config has none.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// By layer_types (sliding_attention, full_attention), one entry a layer, else by `rule`.
/// Error{kConfigValue} for a list of another length or with other words.
std::vector<bool> windowed_layers(const ModelConfig& config, int64_t layers,
                                  const std::function<bool(int64_t)>& rule);

/// Gives these layers the window; 0: none.
void set_windows(ModelSpec& spec, const std::vector<bool>& windowed, int64_t window);

/// N where every N-th layer and no other is without a window, or nullopt.
std::optional<int64_t> window_pattern(const std::vector<bool>& windowed);

/// layer_types for readers that do not know the rule.
void write_layer_types(Json& config, const ModelSpec& spec);

}  // namespace jang
