// What a decode step draws from memory, and how fast a pass that only reads would get it: the two
// figures behind "share of the bandwidth" in benchmarks.
#pragma once

#include <cstdint>
#include <functional>

#include "arch/directory.h"
#include "base/thread_pool.h"

namespace jang {

/// Matrices that a token is multiplied with: weights (multiply-adds per token) and stored bytes,
/// scales and biases included.
struct MatrixTotals {
  uint64_t weights = 0;
  uint64_t bytes = 0;
};

/// Every token passes `layers`, of experts as many as it chooses, and all but the last of a prompt
/// leave `wanted_only` out; `head` counts once per row of logits. A tied head is the embedding's
/// matrix; otherwise the embedding is in neither, because only single rows of it are read.
struct WeightTraffic {
  MatrixTotals layers, head;
  MatrixTotals experts;  // the part of `layers` that a token chooses
  /// The part of `layers` behind the last keys and states that later tokens read: only tokens whose
  /// logits are wanted pass it.
  MatrixTotals wanted_only;
};

/// `spec` is directory_spec(directory).
WeightTraffic weight_traffic(const ModelDirectory& directory, const ModelSpec& spec);

struct ReadPass {
  double seconds = 0;
  uint64_t sum = 0;  // of all words, so that nothing can be left out
};

/// Reads every byte of the mapped weight files once with all threads of `pool`, through the widest
/// registers of this CPU whichever level is active. `poll`, if any, is called many times a second
/// and may throw to stop.
ReadPass read_pass(const Checkpoint& checkpoint, ThreadPool& pool,
                   const std::function<void()>& poll = {});

}  // namespace jang
