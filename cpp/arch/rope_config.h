// Rotary positions in a config, in both spellings: rope_theta + rope_scaling, or rope_parameters.
//
// transformers 5 writes the second; most of stock mlx-lm reads only the first and otherwise takes
// its own default in silence. Families read either and write the first beside what is there.
#pragma once

#include <cstdint>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// What the config says: its dictionary is rope_scaling if it is not empty, else rope_parameters
/// (flat); a theta inside the dictionary beats the one beside it. Types that no layer computes yet
/// (yarn, longrope, ...) are Error{kUnsupportedModel} by name; missing or non-positive numbers
/// Error{kConfigValue}. `default_positions`: max_position_embeddings where the config is silent.
RopeSpec read_rope(const ModelConfig& config, int64_t head_dim, double default_theta,
                   int64_t default_positions);

/// The same of one layer type, for models that have a table for each: theta stands in `theta_key`
/// or in the type's own object of rope_parameters, which beats it. `scaled`: rope_scaling is meant
/// for this type.
RopeSpec read_layer_rope(const ModelConfig& config, std::string_view layer_type,
                         std::string_view theta_key, bool scaled, int64_t head_dim,
                         double default_theta, int64_t default_positions);

/// Sets rope_theta, and rope_scaling with both `type` and `rope_type` (or null for plain rotary
/// positions), on `text`, the object that holds the text model's settings.
void write_rope(Json& text, const ModelConfig& source, const RopeSpec& rope);
/// The same for the table of the layer type that rope_theta and rope_scaling are about.
void write_layer_rope(Json& text, const ModelConfig& source, const RopeSpec& rope,
                      std::string_view layer_type);

}  // namespace jang
