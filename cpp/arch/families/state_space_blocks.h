// What mamba, falcon_mamba and mamba2 share: a backbone of norms and mixers without attention and
// without feed-forwards, and the settings that all of their configs have.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

struct StateSpaceShape {
  int64_t hidden = 0;
  int64_t inner = 0;  // expand * hidden
  int64_t state = 0;
  int64_t taps = 0;
  bool bias = false;  // of the projections in and out
  bool convolution_bias = true;
  float eps = 1e-5f;
};

/// Channels that a recurrent layer may convolve, over how many tokens, and numbers of a state that
/// a channel may have.
inline constexpr int64_t kMostStateSpaceChannels = int64_t{1} << 22;
inline constexpr int64_t kMostTaps = 32;
inline constexpr int64_t kMostStates = 4096;

/// The inner channels of a mixer: the integer at `key` times hidden, within bounds.
int64_t read_inner(const ModelConfig& config, std::string_view key, int64_t fallback,
                   int64_t hidden);

/// The channels that the steps of a selective state space are made of: a number or "auto", a
/// sixteenth of the hidden size, as is absence.
int64_t step_rank(const ModelConfig& config, std::string_view key, int64_t hidden);

/// Refuses what no such model has; `default_state`: of state_size.
StateSpaceShape read_state_space(const ModelConfig& config, int64_t default_state);

/// The model whose layer at `base` ("backbone.layers.0.") mixes by mixer(base + "mixer.").
ModelSpec state_space_model(const ModelConfig& config, const StateSpaceShape& shape,
                            const std::function<MixerSpec(const std::string& base)>& mixer);

/// Explicit values of all of these settings.
void complete_state_space(Json& config, const StateSpaceShape& shape);

}  // namespace jang
