// Whether a stored lm_head says anything that the embedding does not.
#pragma once

#include <optional>

#include "arch/config.h"
#include "io/checkpoint.h"

namespace jang {

struct TiedPair {
  const CheckpointTensor* embedding = nullptr;
  const CheckpointTensor* head = nullptr;
};

/// Embedding and head where the config ties them and both are stored.
std::optional<TiedPair> tied_pair(const ModelConfig& config, const Checkpoint& checkpoint);

/// Compares the payloads of embedding and head where the config ties them and both are stored: the
/// value for build_inventory's `heads_equal`. nullopt if there is nothing to compare. Needs
/// kMapped.
std::optional<bool> stored_heads_equal(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace jang
