// Headers of large models from their published shapes, for planning without weights: a config and
// the tensors that its checkpoint holds, in Hugging Face names with fused experts.
#pragma once

#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"

namespace jang::test {

struct Headers {
  ModelConfig config;
  std::vector<SourceTensor> tensors;

  void add(std::string name, std::vector<uint64_t> shape, DType dtype = DType::kBF16) {
    tensors.push_back({std::move(name), dtype, std::move(shape)});
  }
  Inventory inventory() const { return build_inventory(config, tensors); }
};

/// What two published mixture-of-experts models with hybrid attention differ in.
struct HybridShape {
  int64_t layers, hidden, heads, value_heads, experts, width;
};
inline constexpr HybridShape kShapeA{48, 3072, 32, 64, 256, 1024};  // 122B, 10B active
inline constexpr HybridShape kShapeB{40, 2048, 16, 32, 256, 512};   // 35B, 3B active

/// qwen3_5_moe headers: full attention in every 4th layer, an untied head.
Headers hybrid_headers(const HybridShape& shape);

/// llama headers with gate, up and down of `intermediate` each.
struct DenseShape {
  int64_t layers = 4, hidden = 256, intermediate = 512, heads = 4, kv_heads = 2, head_dim = 64,
          vocabulary = 1000;
  bool tied = false;
};
Headers llama_headers(const DenseShape& shape);
inline constexpr DenseShape kLlama8B{32, 4096, 14336, 32, 8, 128, 128256, false};

}  // namespace jang::test
