// The tensors that a ModelSpec asks for: names, shapes, and the check that a directory holds
// exactly these.
//
// One list serves the loader, conversion and planning from a bare config, so that they cannot
// disagree about what belongs to a model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "arch/spec.h"

namespace jang {

struct SpecTensor {
  std::string name;  // final, with ".weight" or ".bias"
  std::vector<uint64_t> shape;
  bool matrix = false;  // a Linear, the Embedding or a stack: may be stored as a quantized triple
  uint64_t chosen = 0;  // of a stack [count, out, in]: how many of its matrices a token meets
};

/// Every tensor of the model, in layer order (embedding, layers, final norm, head); all are
/// required. A tied head adds at most a bias.
std::vector<SpecTensor> spec_tensors(const ModelSpec& spec);

/// A tensor found somewhere: final name and logical shape ([out, in] also for quantized modules).
struct FoundTensor {
  std::string name;
  std::vector<uint64_t> shape;
};

/// Throws Error naming `file` (may be empty) and the tensor: kMissingTensor, kTensorShape with both
/// shapes, or kExtraTensor for a tensor that nothing consumes.
void check_tensors(const ModelSpec& spec, std::span<const FoundTensor> found,
                   const std::string& file);

/// "[2, 3]", for messages.
std::string shape_text(std::span<const uint64_t> shape);

}  // namespace jang
