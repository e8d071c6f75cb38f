// Byte comparison of the two matrices that a tied model should have only one of.
#include "arch/tied_head.h"

#include <cstring>

namespace jang {

std::optional<bool> stored_heads_equal(const ModelConfig& config, const Checkpoint& checkpoint) {
  if (!config.tied_embeddings()) return std::nullopt;
  const CheckpointTensor* embedding = nullptr;
  const CheckpointTensor* head = nullptr;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::string& name = tensor.name;
    if (name.ends_with("embed_tokens.weight") || name.ends_with("backbone.embeddings.weight")) {
      embedding = &tensor;
    } else if (name == "lm_head.weight" || name.ends_with(".lm_head.weight")) {
      head = &tensor;
    }
  }
  if (embedding == nullptr || head == nullptr) return std::nullopt;
  if (embedding->shape != head->shape || embedding->dtype != head->dtype) return false;
  const auto a = checkpoint.data(*embedding);
  const auto b = checkpoint.data(*head);
  return std::memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace jang
