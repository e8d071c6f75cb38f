// The routed block of glm4_moe and the deepseek generations: the first layers are dense, shared
// experts in the others are one matrix wide, and experts may come in groups of which a token meets
// the best few.
#pragma once

#include <cstdint>
#include <string>

#include "arch/config.h"
#include "arch/spec.h"

namespace jang {

/// What a config may leave out; 0 for a number without a default.
struct GroupedMoeTraits {
  RouterRule rule = RouterRule::kSigmoid;
  bool correction = true;  // mlp.gate.e_score_correction_bias
  bool mlp_bias = false;   // of shared experts
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t width = 0;
  int64_t shared = 1;
  int64_t dense_layers = 0;
  int64_t groups = 1;
  int64_t open_groups = 1;
  double weight_scale = 1.0;
  /// Whether norm_topk_prob is read, and then holds if it is absent.
  bool reads_renormalize = true;
  bool grouped = true;  // n_group and topk_group are read
};

/// first_k_dense_replace: layers before it have no experts.
int64_t first_routed_layer(const ModelConfig& config, const GroupedMoeTraits& traits);

/// The block at `base` ("model.layers.3.mlp."). Refuses counts that do not fit together.
MoeSpec grouped_moe(const ModelConfig& config, const std::string& base, int64_t hidden,
                    const GroupedMoeTraits& traits);

/// Explicit values of all keys that the above reads.
void complete_grouped_moe(Json& config, const ModelConfig& source, const GroupedMoeTraits& traits);

}  // namespace jang
