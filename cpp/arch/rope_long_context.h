// Rotary types that stretch a context by their own rules: the parameters of yarn and longrope.
//
// Relies on rope_config.cpp for theta, rotated channels and original positions, which are set in
// the RopeSpec; leaves frequencies to model/rotary.h.
#pragma once

#include <cstdint>
#include <string>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

struct RopeDictionary {
  const ModelConfig& config;
  const Json& entries;       // of the dictionary that is in effect
  const std::string& owner;  // its key, for messages
  int64_t positions;         // max_position_embeddings
};

/// factor, magnitude, beta_fast, beta_slow, truncate. Throws Error{kConfigValue}.
void read_yarn(const RopeDictionary& dictionary, RopeSpec& rope);
/// magnitude and long_magnitude as short_mscale and long_mscale state them; both are required.
/// Throws Error{kConfigValue}.
void read_magnitudes(const RopeDictionary& dictionary, RopeSpec& rope);
/// short_factors and long_factors, as many as pairs of channels turn, and the magnitude. Throws
/// Error{kConfigValue}.
void read_longrope(const RopeDictionary& dictionary, RopeSpec& rope);

}  // namespace jang
