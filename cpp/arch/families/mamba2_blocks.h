// The mixer of mamba2, as several families have it under names of their own.
#pragma once

#include <string>
#include <string_view>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// What a family calls the settings of its mixers, and what holds where one is absent.
struct Mamba2Keys {
  struct Key {
    std::string_view name;
    int64_t fallback;
  };
  Key heads{"num_heads", 128};
  Key head_dim{"head_dim", 64};  // 0: expand * hidden_size / heads, which "auto" says as well
  Key groups{"n_groups", 8};
  Key state{"state_size", 128};
  Key taps{"conv_kernel", 4};
  Key expand{"expand", 2};  // without a name: the inner channels are those of the heads
  std::string_view bias = "use_bias";
  std::string_view convolution_bias = "use_conv_bias";
};

/// As granitemoehybrid and falcon_h1 have them, beside the settings of attention.
Mamba2Keys prefixed_mamba2_keys();

/// Sizes, limits and flags; `in.bias` and `out.bias` hold, paths do not. Refuses what no such model
/// has, among it heads that are not expand * hidden channels, or `inner` of them if that is not 0.
Mamba2Spec read_mamba2(const ModelConfig& config, const Mamba2Keys& keys, int64_t hidden,
                       int64_t inner = 0);

/// The layer's mixer: `shape` with the paths below `base` and a norm, of what the gate has
/// multiplied, of that epsilon.
Mamba2Spec mamba2_layer(const Mamba2Spec& shape, const std::string& base, int64_t hidden,
                        float eps);

/// Explicit values of the settings that `keys` names, and of time_step_limit.
void complete_mamba2(Json& config, const ModelConfig& source, const Mamba2Keys& keys,
                     const Mamba2Spec& shape);

}  // namespace jang
