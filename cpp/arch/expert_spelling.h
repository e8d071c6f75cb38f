// The spellings that sources have for one stack of experts, told by the names of an index. What
// each becomes is final_names.h's and split_tensor.h's; this is the way back, for planning without
// shards.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"

namespace jang {

/// How a checkpoint stores the experts of a layer.
enum class ExpertSpelling {
  kSingle,   // P.experts.7.gate_proj.weight
  kMixtral,  // P.experts.7.w1.weight
  kFused,    // P.experts.gate_up_proj and P.experts.down_proj, gate rows first
  kLinear,   // the same as P.input_linear.weight and P.output_linear.weight
  kStacked,  // P.switch_mlp.gate_proj.weight, the final name
  // gpt_oss: gate and up in turn, with P.experts.gate_up_proj_bias and down_proj_bias
  kInterleaved,  // P.experts.gate_up_proj and P.experts.down_proj, transposed
  kMxfp4,        // P.experts.gate_up_proj_blocks, gate_up_proj_scales, and so of down_proj
};

/// By the names of the index; without any, as writers of this model type do. Error{kConfigValue}
/// for more experts than a list can hold.
ExpertSpelling expert_spelling(const ModelConfig& config, std::span<const std::string> names);

/// Appends the sources of one stack, `stack` having its final name and shape [E, out, in], or of
/// the biases of one, [E, out].
void add_stack(std::vector<SourceTensor>& out, ExpertSpelling spelling, SourceTensor stack);

/// Of granite's feed-forwards without experts: gives `out` the fused tensors that the index has for
/// them.
void join_granite_halves(std::vector<SourceTensor>& out, std::span<const std::string> names);

/// Mixtral's block has another name in memory, and some writers keep that one: gives it to `out` if
/// the index has it.
void name_routed_blocks(std::vector<SourceTensor>& out, std::span<const std::string> names);

}  // namespace jang
