#include "arch/zero_centred_norms.h"

#include <algorithm>
#include <array>

namespace jang {
namespace {

constexpr std::array<std::string_view, 3> kTypes = {"qwen3_next", "qwen3_5", "qwen3_5_moe"};
constexpr std::array<std::string_view, 5> kNorms = {".input_layernorm", ".post_attention_layernorm",
                                                    "model.norm", ".q_norm", ".k_norm"};

}  // namespace

bool has_zero_centred_norms(std::string_view model_type) noexcept {
  return std::find(kTypes.begin(), kTypes.end(), model_type) != kTypes.end();
}

bool is_zero_centred(std::string_view model_type, std::string_view path) noexcept {
  return has_zero_centred_norms(model_type) &&
         std::any_of(kNorms.begin(), kNorms.end(),
                     [&](std::string_view name) { return path.ends_with(name); });
}

bool holds_raw_convolutions(std::span<const SourceTensor> tensors) noexcept {
  return std::any_of(tensors.begin(), tensors.end(), [](const SourceTensor& tensor) {
    return tensor.name.ends_with("conv1d.weight") && tensor.shape.size() == 3 &&
           tensor.shape[1] == 1 && tensor.shape[2] > 1;
  });
}

void add_one_to_norms(ModelSpec& spec) {
  const auto turn = [&](NormSpec& norm) {
    if (is_zero_centred(spec.model_type, norm.path)) norm.kind = NormKind::kRmsOnePlus;
  };
  const auto turn_if = [&](std::optional<NormSpec>& norm) {
    if (norm) turn(*norm);
  };
  for (LayerSpec& layer : spec.layers) {
    for (auto* norm : {&layer.pre_norm, &layer.post_norm, &layer.ff_pre_norm, &layer.ff_post_norm})
      turn_if(*norm);
    if (auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      turn_if(attention->q_norm);
      turn_if(attention->k_norm);
    }
  }
  turn(spec.final_norm);
}

}  // namespace jang
