// Byte comparison of the two matrices that a tied model should have only one of. Pages are dropped
// behind the comparison: the pair may be larger than the memory that a conversion may use.
#include "arch/tied_head.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arch/block_scales.h"

namespace jang {
namespace {

constexpr uint64_t kStep = uint64_t{16} << 20;

bool equal_payloads(const Checkpoint& checkpoint, const CheckpointTensor& first,
                    const CheckpointTensor& second) {
  if (first.shape != second.shape || first.dtype != second.dtype) return false;
  const auto a = checkpoint.data(first);
  const auto b = checkpoint.data(second);
  for (uint64_t begin = 0; begin < a.size(); begin += kStep) {
    const uint64_t bytes = std::min<uint64_t>(kStep, a.size() - begin);
    const bool equal = std::memcmp(a.data() + begin, b.data() + begin, bytes) == 0;
    checkpoint.mapping(first).drop(first.begin + begin, bytes);
    checkpoint.mapping(second).drop(second.begin + begin, bytes);
    if (!equal) return false;
  }
  return true;
}

}  // namespace

std::optional<TiedPair> tied_pair(const ModelConfig& config, const Checkpoint& checkpoint) {
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
  return TiedPair{embedding, head};
}

std::optional<bool> stored_heads_equal(const ModelConfig& config, const Checkpoint& checkpoint) {
  const std::optional<TiedPair> pair = tied_pair(config, checkpoint);
  if (!pair) return std::nullopt;
  const auto [embedding, head] = *pair;
  if (!equal_payloads(checkpoint, *embedding, *head)) return false;
  if (embedding->dtype != DType::kF8E4M3) return true;
  // Equal codes say nothing beside other scales.
  const CheckpointTensor* scales = checkpoint.find(scales_name(embedding->name));
  const CheckpointTensor* head_scales = checkpoint.find(scales_name(head->name));
  return scales != nullptr && head_scales != nullptr &&
         equal_payloads(checkpoint, *scales, *head_scales);
}

}  // namespace jang
