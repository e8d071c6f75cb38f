#include "arch/general_roles.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <optional>

#include "arch/family.h"

namespace jang {
namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Takes the last component off a path.
std::string_view take_last(std::string_view& path) {
  const std::size_t dot = path.rfind('.');
  const std::string_view last = dot == std::string_view::npos ? path : path.substr(dot + 1);
  path = dot == std::string_view::npos ? std::string_view{} : path.substr(0, dot);
  return last;
}

/// The number behind a component that holds the layers of a model: "transformer.h.7.attn" -> 7.
int64_t layer_behind(std::string_view path) {
  int64_t layer = -1;
  std::string_view after;
  while (!path.empty()) {
    const std::string_view component = take_last(path);
    if (one_of(component, {"layers", "layer", "blocks", "block", "h"}) && !after.empty()) {
      int64_t number = 0;
      const auto [end, error] = std::from_chars(after.data(), after.data() + after.size(), number);
      if (error == std::errc{} && end == after.data() + after.size() && number >= 0) layer = number;
    }
    after = component;
  }
  return layer;
}

struct Answer {
  Role role;
  Part part = Part::kNone;
};

std::optional<Answer> custom(std::string_view owner, std::string_view last) {
  if (one_of(last, {"wte", "word_embeddings", "tok_embeddings", "embed_in"}))
    return Answer{Role::kEmbedding};
  if (last == "embed_out") return Answer{Role::kHead};
  // In most implementations arrays that get added, not layers that could be packed.
  if (one_of(last, {"wpe", "embed_positions", "position_embeddings", "pos_embed"}))
    return Answer{Role::kOther};
  if (one_of(owner, {"attn", "attention", "self_attention", "self_attn"})) {
    if (one_of(last, {"query_key_value", "qkv", "Wqkv", "qkv_proj"}))
      return Answer{Role::kAttention, Part::kQkv};
    if (one_of(last, {"q_proj", "wq"})) return Answer{Role::kAttention, Part::kQ};
    if (one_of(last, {"k_proj", "wk"})) return Answer{Role::kAttention, Part::kK};
    if (one_of(last, {"v_proj", "wv"})) return Answer{Role::kAttention, Part::kV};
    if (one_of(last, {"o_proj", "wo", "c_proj", "out_proj", "dense"}))
      return Answer{Role::kAttention, Part::kO};
  }
  if (one_of(owner, {"mlp", "ffn", "feed_forward"})) {
    if (one_of(last, {"gate_proj", "w1"})) return Answer{Role::kMlp, Part::kGate};
    if (one_of(last, {"up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h", "fc_in"}))
      return Answer{Role::kMlp, Part::kUp};
    if (one_of(last, {"down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "fc_out"}))
      return Answer{Role::kMlp, Part::kDown};
  }
  return std::nullopt;
}

}  // namespace

RoleMatch general_role_of(std::string_view path, std::span<const uint64_t> shape) {
  RoleMatch match = role_of(path, shape, {});
  constexpr std::string_view kWeight = ".weight";
  if (path.ends_with(kWeight)) path.remove_suffix(kWeight.size());
  match.layer = layer_behind(path);
  if (match.matched) return match;
  const std::string_view last = take_last(path);
  const std::string_view owner = take_last(path);
  if (const auto known = custom(owner, last)) match = {known->role, known->part, match.layer, true};
  return match;
}

RoleMatch role_in_model(std::string_view path, std::span<const uint64_t> shape,
                        std::string_view model_type) {
  return is_unknown_model_type(model_type) ? general_role_of(path, shape)
                                           : role_of(path, shape, model_type);
}

}  // namespace jang
