// Rotary positions in a config, in both spellings: rope_theta + rope_scaling, or rope_parameters.
//
// transformers 5 writes the second; most of stock mlx-lm reads only the first and otherwise takes
// its own default in silence. Families read either and write the first beside what is there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// How a family reads its rotary positions.
struct RopeRules {
  double theta = 10000.0;    // where the config is silent
  int64_t positions = 2048;  // max_position_embeddings likewise
  /// partial_rotary_factor likewise; none: whole heads turn, and another factor is refused.
  std::optional<double> partial;
  /// original_max_position_embeddings likewise; none: max_position_embeddings.
  std::optional<int64_t> original_positions;
  bool yarn_is_longrope = false;  // what phi3 files of the first months say
  /// longrope: magnitudes are stated, short_mscale up to the original positions and long_mscale
  /// beyond, and no attention_factor is read.
  bool stated_magnitudes = false;
  bool interleaved = false;
  bool proportional = false;  // the type of this name is known
};

/// What the config says: its dictionary is rope_scaling if it is not empty, else rope_parameters
/// (flat); what stands inside the dictionary beats what stands beside it, but for
/// original_max_position_embeddings. Types that no layer computes are Error{kUnsupportedModel} by
/// name; missing or non-positive numbers Error{kConfigValue}.
RopeSpec read_rope(const ModelConfig& config, int64_t head_dim, const RopeRules& rules);

/// The same of one layer type, for models that have a table for each: theta stands in `theta_key`
/// or in the type's own object of rope_parameters, which beats it. `scaled`: rope_scaling is meant
/// for this type.
RopeSpec read_layer_rope(const ModelConfig& config, std::string_view layer_type,
                         std::string_view theta_key, bool scaled, int64_t head_dim,
                         double default_theta, int64_t default_positions,
                         bool proportional = false);

/// What positions that are stretched multiply all scores with: (1 + 0.1 * mscale_all_dim * ln
/// factor)^2; 1 where the config does not say.
double score_scale(const ModelConfig& config, const RopeSpec& rope);

/// A finite number above 0, or Error{kConfigValue} naming `key`.
double positive_number(const ModelConfig& config, const std::string& key, const Json& value);

/// Sets rope_theta, and rope_scaling with both `type` and `rope_type` (or null for plain rotary
/// positions), on `text`, the object that holds the text model's settings. A family whose heads
/// turn in part adds write_partial_rotary.
void write_rope(Json& text, const ModelConfig& source, const RopeSpec& rope);
/// partial_rotary_factor beside the dictionary, where stock mlx-lm looks for it.
void write_partial_rotary(Json& text, const ModelConfig& source, const RopeRules& rules);
/// The same for the table of the layer type that rope_theta and rope_scaling are about.
void write_layer_rope(Json& text, const ModelConfig& source, const RopeSpec& rope,
                      std::string_view layer_type);

}  // namespace jang
