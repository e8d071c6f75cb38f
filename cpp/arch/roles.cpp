// The table of roles, row by row as in the specification: patterns are whole components of the
// path, the first row that matches decides.
#include "arch/roles.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

namespace jang {
namespace {

using Components = std::vector<std::string_view>;

Components split_path(std::string_view path) {
  Components parts;
  while (true) {
    const std::size_t dot = path.find('.');
    parts.push_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

bool has(const Components& parts, std::string_view name) {
  return std::find(parts.begin(), parts.end(), name) != parts.end();
}

bool any_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

int64_t layer_of(const Components& parts) {
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    if (parts[i] != "layers") continue;
    int64_t layer = 0;
    const std::string_view digits = parts[i + 1];
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (error == std::errc{} && end == digits.data() + digits.size() && layer >= 0) return layer;
  }
  return -1;
}

Part feed_forward_part(std::string_view name) {
  if (any_of(name, {"gate_proj", "w1"})) return Part::kGate;
  if (any_of(name, {"up_proj", "w3", "fc1"})) return Part::kUp;
  if (any_of(name, {"down_proj", "w2", "fc2", "output_linear"})) return Part::kDown;
  if (any_of(name, {"gate_up_proj", "input_linear"})) return Part::kGateUp;
  return Part::kNone;
}

Part attention_part(std::string_view name) {
  if (name == "q_proj") return Part::kQ;
  if (name == "k_proj") return Part::kK;
  if (name == "v_proj") return Part::kV;
  if (any_of(name, {"o_proj", "dense", "out_proj"})) return Part::kO;
  if (name == "qkv_proj") return Part::kQkv;
  return Part::kNone;
}

bool is_other(const Components& parts, std::span<const uint64_t> shape) {
  const std::string_view last = parts.back();
  if (shape.size() <= 1) return true;
  if (last.find("norm") != std::string_view::npos) return true;
  if (any_of(last, {"bias", "A_log", "D", "dt_bias", "sinks", "conv1d", "expert_bias",
                    "layer_scalar", "per_expert_scale"})) {
    return true;
  }
  if (last.ends_with("correction_bias")) return true;
  if (parts.size() < 2) return false;
  const std::string_view owner = parts[parts.size() - 2];
  return (owner == "conv" && last == "conv") || (owner == "router" && last == "scale");
}

bool is_router(std::string_view owner, std::string_view last) {
  if (last == "gate") return any_of(owner, {"mlp", "mixer", "block_sparse_moe", "feed_forward"});
  if (last == "router") return any_of(owner, {"mlp", "feed_forward"});
  return (owner == "router" && any_of(last, {"layer", "proj"})) || last == "shared_expert_gate";
}

struct Answer {
  Role role = Role::kAttention;
  Part part = Part::kNone;
  bool matched = false;
};

Answer classify(const Components& parts, std::span<const uint64_t> shape,
                std::string_view model_type) {
  const std::string_view last = parts.back();
  const std::string_view owner = parts.size() < 2 ? std::string_view{} : parts[parts.size() - 2];
  // 1: vectors, convolutions and whatever else is never packed
  if (is_other(parts, shape)) return {Role::kOther, Part::kNone, true};
  // 2, 3
  if (any_of(last, {"embed_tokens", "embed_tokens_per_layer"}) ||
      (owner == "backbone" && last == "embeddings")) {
    return {Role::kEmbedding, Part::kNone, true};
  }
  if (last == "lm_head") return {Role::kHead, Part::kNone, true};
  // 4
  if (is_router(owner, last)) return {Role::kRouter, Part::kNone, true};
  // 5, 6
  if (any_of(owner, {"shared_expert", "shared_experts", "shared_mlp"})) {
    return {Role::kSharedExpert, feed_forward_part(last), true};
  }
  if (has(parts, "switch_mlp") || has(parts, "switch_glu") || has(parts, "experts")) {
    return {Role::kExpert, feed_forward_part(last), true};
  }
  // 7: minimax names its linear layers like attention; only the architecture tells them apart
  if (owner == "linear_attn" && last.starts_with("in_proj_")) {
    const bool steers = any_of(last, {"in_proj_a", "in_proj_b", "in_proj_ba"});
    return {Role::kLinearAttention, steers ? Part::kInner : Part::kIn, true};
  }
  if (owner == "linear_attn" && last == "out_proj") {
    return {Role::kLinearAttention, Part::kOut, true};
  }
  if (owner == "self_attn" && last == "output_gate") {
    return {Role::kLinearAttention, Part::kIn, true};
  }
  if (model_type == "minimax" && owner == "self_attn") {
    if (last == "qkv_proj") return {Role::kLinearAttention, Part::kIn, true};
    if (last == "out_proj") return {Role::kLinearAttention, Part::kOut, true};
  }
  // 8
  if (any_of(owner, {"mixer", "mamba", "conv"})) {
    if (last == "in_proj") return {Role::kSsm, Part::kIn, true};
    if (last == "out_proj") return {Role::kSsm, Part::kOut, true};
    if (any_of(last, {"x_proj", "dt_proj"})) return {Role::kSsm, Part::kInner, true};
  }
  // 9
  if (any_of(last, {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "embed_q",
                    "unembed_out"}) ||
      has(parts, "indexer")) {
    return {Role::kAttention, Part::kLatent, true};
  }
  if (owner == "self_attn" && last == "g_proj") return {Role::kAttention, Part::kGate, true};
  if (any_of(owner, {"self_attn", "mixer"})) {
    const Part part = attention_part(last);
    const bool attention_only = any_of(last, {"dense", "out_proj"});
    if (part != Part::kNone && (owner == "self_attn" || !attention_only)) {
      return {Role::kAttention, part, true};
    }
  }
  // 10
  if (any_of(owner, {"mlp", "feed_forward"}) ||
      (owner == "mixer" && any_of(last, {"up_proj", "down_proj"}))) {
    const Part part = feed_forward_part(last);
    if (part != Part::kNone) return {Role::kMlp, part, true};
  }
  // 11: recorded as attention
  if (any_of(last, {"fc1_latent_proj", "fc2_latent_proj"}) || last.starts_with("per_layer_")) {
    return {Role::kAttention, Part::kLatent, true};
  }
  return {};
}

}  // namespace

std::string_view role_name(Role role) noexcept {
  switch (role) {
    case Role::kOther:
      return "other";
    case Role::kEmbedding:
      return "embedding";
    case Role::kHead:
      return "head";
    case Role::kRouter:
      return "router";
    case Role::kSharedExpert:
      return "shared_expert";
    case Role::kExpert:
      return "expert";
    case Role::kLinearAttention:
      return "linear_attention";
    case Role::kSsm:
      return "ssm";
    case Role::kAttention:
      return "attention";
    case Role::kMlp:
      return "mlp";
  }
  return "other";
}

RoleMatch role_of(std::string_view path, std::span<const uint64_t> shape,
                  std::string_view model_type) {
  constexpr std::string_view kWeight = ".weight";
  if (path.ends_with(kWeight)) path.remove_suffix(kWeight.size());
  const Components parts = split_path(path);
  const Answer answer = classify(parts, shape, model_type);
  return {answer.role, answer.part, layer_of(parts), answer.matched};
}

}  // namespace jang
