#include "arch/expert_spelling.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "arch/mxfp4.h"

namespace jang {

ExpertSpelling expert_spelling(const ModelConfig& config, std::span<const std::string> names) {
  // Both numbers are within their own bounds; together they may still promise 10^9 tensors.
  if (config.layers() * config.experts() > 1'000'000) {
    config.fail("num_experts", "more than 1,000,000 experts in all layers together");
  }
  const std::string& type = config.model_type();
  const bool gpt_oss = type == "gpt_oss";
  for (const std::string& name : names) {
    if (name.ends_with(".experts.up_proj")) return ExpertSpelling::kFused;
    if (name.ends_with(".experts.gate_up_proj"))
      return gpt_oss ? ExpertSpelling::kInterleaved : ExpertSpelling::kFused;
    if (gpt_oss && name.ends_with(".experts.gate_up_proj_blocks")) return ExpertSpelling::kMxfp4;
    if (gpt_oss && name.ends_with(".experts.gate_proj.weight")) return ExpertSpelling::kStacked;
    if (name.ends_with(".switch_mlp.gate_proj.weight") ||
        name.ends_with(".switch_mlp.fc1.weight") ||
        name.ends_with(".experts.switch_glu.gate_proj.weight"))
      return ExpertSpelling::kStacked;
    if (name.ends_with(".block_sparse_moe.input_linear.weight")) return ExpertSpelling::kLinear;
  }
  if (gpt_oss) return is_mxfp4(config) ? ExpertSpelling::kMxfp4 : ExpertSpelling::kInterleaved;
  if (type.starts_with("gemma4")) return ExpertSpelling::kFused;
  if (type == "mixtral" || type == "phimoe" || type == "lfm2_moe" || type.starts_with("minimax"))
    return ExpertSpelling::kMixtral;
  return type.starts_with("granitemoe") ? ExpertSpelling::kLinear : ExpertSpelling::kSingle;
}

namespace {

/// gpt_oss: what holds gate holds up, too.
void add_interleaved(std::vector<SourceTensor>& out, bool packed, SourceTensor stack) {
  constexpr std::string_view kGate = ".gate_proj", kUp = ".up_proj";
  if (stack.name.find(kUp) != std::string::npos) return;
  if (const std::size_t at = stack.name.find(kGate); at != std::string::npos) {
    stack.name.replace(at, kGate.size(), ".gate_up_proj");
    stack.shape[1] *= 2;
  }
  const auto end_with = [&](std::string_view suffix) {
    return stack.name.substr(0, stack.name.rfind('.')) + std::string(suffix);
  };
  if (stack.name.ends_with(".bias")) {
    out.push_back({end_with("_bias"), stack.dtype, stack.shape});
  } else if (packed) {
    const uint64_t experts = stack.shape[0], rows = stack.shape[1];
    const uint64_t blocks = stack.shape[2] / kMxfp4Block;
    out.push_back({end_with("_blocks"), DType::kU8, {experts, rows, blocks, kMxfp4BlockBytes}});
    out.push_back({end_with("_scales"), DType::kU8, {experts, rows, blocks}});
  } else {
    std::swap(stack.shape[1], stack.shape[2]);
    out.push_back({end_with(""), stack.dtype, stack.shape});
  }
}

}  // namespace

void add_stack(std::vector<SourceTensor>& out, ExpertSpelling spelling, SourceTensor stack) {
  if (spelling == ExpertSpelling::kInterleaved || spelling == ExpertSpelling::kMxfp4)
    return add_interleaved(out, spelling == ExpertSpelling::kMxfp4, std::move(stack));
  constexpr std::string_view kBlock = ".switch_mlp.", kBeside = ".experts.switch_glu.";
  const bool beside = stack.name.find(kBeside) != std::string::npos;  // gemma4
  const std::string_view module = beside ? kBeside : kBlock;
  const std::size_t at = stack.name.find(module);
  const std::string block = stack.name.substr(0, at), experts = block + ".experts.";
  std::string part = stack.name.substr(at + module.size());  // "gate_proj.weight"
  const bool gateless = part.starts_with("fc");              // nemotron_h
  if (gateless && spelling != ExpertSpelling::kStacked)
    part = part.starts_with("fc1") ? "up_proj.weight" : "down_proj.weight";
  if (gateless && spelling == ExpertSpelling::kFused) {
    out.push_back({experts + part.substr(0, part.size() - 7), stack.dtype, stack.shape});
    return;
  }
  if (spelling == ExpertSpelling::kStacked) {
    out.push_back(std::move(stack));
  } else if (spelling == ExpertSpelling::kFused || spelling == ExpertSpelling::kLinear) {
    if (part.starts_with("up_proj")) return;  // behind the gate rows of the same tensor
    const bool gate = part.starts_with("gate_proj");
    if (gate) stack.shape[1] *= 2;
    const std::string name =
        spelling == ExpertSpelling::kFused
            ? experts + (gate ? "gate_up_proj" : "down_proj")
            : block + (gate ? ".input_linear.weight" : ".output_linear.weight");
    out.push_back({name, stack.dtype, stack.shape});
  } else {
    std::string name = part;
    if (spelling == ExpertSpelling::kMixtral) {
      name = part.starts_with("gate") ? "w1.weight"
             : part.starts_with("up") ? "w3.weight"
                                      : "w2.weight";
    }
    for (uint64_t e = 0; e < stack.shape[0]; ++e) {
      out.push_back({experts + std::to_string(e) + "." + name,
                     stack.dtype,
                     {stack.shape[1], stack.shape[2]}});
    }
  }
}

void join_granite_halves(std::vector<SourceTensor>& out, std::span<const std::string> names) {
  const bool fused = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".shared_mlp.input_linear.weight");
  });
  constexpr std::string_view kGate = ".mlp.gate_proj.weight", kUp = ".mlp.up_proj.weight",
                             kDown = ".mlp.down_proj.weight";
  if (!fused) return;
  std::erase_if(out, [&](const SourceTensor& tensor) { return tensor.name.ends_with(kUp); });
  for (SourceTensor& tensor : out) {
    const auto rename = [&](std::string_view from, std::string_view to) {
      if (!tensor.name.ends_with(from)) return false;
      tensor.name.replace(tensor.name.size() - from.size(), from.size(), to);
      return true;
    };
    if (rename(kGate, ".shared_mlp.input_linear.weight")) tensor.shape[0] *= 2;
    rename(kDown, ".shared_mlp.output_linear.weight");
  }
}

void name_routed_blocks(std::vector<SourceTensor>& out, std::span<const std::string> names) {
  const bool in_memory = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".mlp.gate.weight");
  });
  if (!in_memory) return;
  constexpr std::string_view kBlock = ".block_sparse_moe.";
  for (SourceTensor& tensor : out) {
    const std::size_t at = tensor.name.find(kBlock);
    if (at != std::string::npos) tensor.name.replace(at, kBlock.size(), ".mlp.");
  }
}

}  // namespace jang
