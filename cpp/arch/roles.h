// Which part of a model a tensor is: decided from its final path, first match wins (models.md,
// section 4).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace jang {

/// The names of the manifest and of every table by role.
enum class Role {
  kOther,  // norms, 1-D tensors, convolutions: never packed
  kEmbedding,
  kHead,
  kRouter,
  kSharedExpert,
  kExpert,
  kLinearAttention,
  kSsm,
  kAttention,
  kMlp,
};
std::string_view role_name(Role role) noexcept;  // "shared_expert"

/// Which matrix of its block; K profiles and baselines look at it.
enum class Part {
  kNone,
  kGate,
  kUp,
  kDown,
  kGateUp,
  kQ,
  kK,
  kV,
  kO,
  kQkv,
  kIn,
  kInner,
  kOut,
  kLatent
};

struct RoleMatch {
  Role role = Role::kOther;
  Part part = Part::kNone;
  int64_t layer = -1;   // of "layers.N."; -1 outside
  bool matched = true;  // false: an unknown name, taken for attention with a warning
};

/// `path`: a final tensor name with or without ".weight"; `shape`: the tensor's, logical.
/// `model_type` matters only for minimax, whose linear layers share names with attention.
RoleMatch role_of(std::string_view path, std::span<const uint64_t> shape,
                  std::string_view model_type = {});

}  // namespace jang
