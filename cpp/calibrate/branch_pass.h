// One sequence at a time through one branch of a model, from position 0, in exact precision: the
// model's own layers over an own cache. What a sequence gets does not depend on the others.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "model/branch.h"
#include "model/kv_cache.h"

namespace jang {

/// The modules of jobs that share an input, in their order; rows of one module count once.
std::vector<std::string> module_paths(std::span<const LinearJob> jobs);

class BranchPass {
 public:
  /// For sequences of `tokens` tokens.
  BranchPass(const ModelSpec& spec, int64_t tokens, ThreadPool& pool);

  /// To be called before branches of another layer, which are bound as layer 0.
  void set_layer(const LayerSpec& layer);
  /// h += the branch, [tokens][hidden]. If `observer` ends the pass, false, and h is as before; the
  /// rows that it saw last stay where they are until the next call.
  bool run(const Branch& branch, float* h, LinearObserver* observer = nullptr);
  /// What the layer left behind in the last whole run: choice of experts and their rows.
  const Workspace& workspace() const noexcept { return work_; }

 private:
  ModelSpec spec_;  // of one layer
  const int64_t tokens_;
  ThreadPool& pool_;
  LinearRunner linear_;
  Workspace work_;
  std::vector<RopeTable> ropes_;
  std::optional<KvCache> cache_;
  AlignedBuffer<float> normed_, out_;  // [tokens][hidden]
};

}  // namespace jang
