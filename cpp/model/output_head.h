// From hidden states to logits: the final norm, the head's matrix, and what a family does to its
// result.
#pragma once

#include <cstdint>

#include "arch/spec.h"
#include "base/thread_pool.h"
#include "model/branch.h"
#include "model/linear.h"
#include "model/weights.h"

namespace jang {

struct OutputHead {
  NormLayer norm;
  LinearWeight weight;  // of a tied head: the embedding's
  float multiplier = 1.0f;
  float softcap = 0.0f;  // 0: none

  OutputHead(const ModelSpec& spec, const LinearWeight& embedding, WeightBinder& binder);
  /// `h`, `normed`: [tokens][hidden], may be the same; `logits`: [tokens][vocabulary]. False if an
  /// observer ended the pass.
  [[nodiscard]] bool run(ThreadPool& pool, LinearRunner& linear, const float* h, int64_t tokens,
                         float* normed, float* logits) const;
};

}  // namespace jang
