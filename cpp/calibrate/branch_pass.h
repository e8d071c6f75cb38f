// One sequence at a time through one branch of a model, from position 0, in exact precision: the
// model's own layers over an own cache. What a sequence gets does not depend on the others.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "calibrate/shared_keys.h"
#include "model/branch.h"
#include "model/kv_cache.h"
#include "model/layer_inputs.h"

namespace jang {

/// The modules of jobs that share an input, in their order; rows of one module count once.
std::vector<std::string> module_paths(std::span<const LinearJob> jobs);

/// The sequences that pass, for models whose layers see more than hidden states, and where what
/// they share is kept.
struct PassSequences {
  int64_t count = 0;
  std::function<std::span<const int32_t>(int64_t sequence)> tokens;
  uint64_t memory_budget = 0;
  std::filesystem::path scratch;  // of keys beyond it
};

class BranchPass {
 public:
  /// For sequences of `tokens` tokens.
  BranchPass(const ModelSpec& spec, int64_t tokens, ThreadPool& pool);

  /// What models need whose layers share keys or have inputs of their own; costs others nothing.
  /// Inputs are those of the weights that `binder` binds now, in every later pass.
  void link(PassSequences sequences, WeightBinder& binder);
  /// Takes inputs of other weights from now on.
  void bind_inputs(WeightBinder& binder);
  /// Shared keys of passes from now on stay beside those of the passes before the first call, which
  /// every call goes back to.
  void branch_off();

  /// To be called before branches of another layer, the model's `index`-th, which are bound as
  /// layer 0.
  void set_layer(const LayerSpec& layer, int64_t index = 0);
  /// h += the branch, [tokens][hidden]. If `observer` ends the pass, false, and h is as before; the
  /// rows that it saw last stay where they are until the next call.
  bool run(const Branch& branch, float* h, LinearObserver* observer = nullptr,
           int64_t sequence = 0);
  /// The scaled embedding of a sequence, [tokens][hidden], in a linked pass of a model whose layers
  /// have inputs of their own; until the next call.
  const float* embedded(int64_t sequence);
  /// What the layer left behind in the last whole run: choice of experts and their rows.
  const Workspace& workspace() const noexcept { return work_; }

 private:
  void find_inputs(int64_t sequence);

  ModelSpec spec_;  // of one layer
  const ModelSpec& model_;
  int64_t index_ = 0;  // of the layer
  const int64_t tokens_;
  ThreadPool& pool_;
  LinearRunner linear_;
  Workspace work_;
  std::vector<RopeTable> ropes_;
  std::optional<KvCache> cache_;
  AlignedBuffer<float> normed_, out_;  // [tokens][hidden]
  PassSequences sequences_;
  std::optional<SharedKeys> keys_;
  std::optional<LayerInputs> inputs_;
  LinearWeight embedding_;                 // for inputs
  AlignedBuffer<float> embedded_, input_;  // [tokens][hidden], [tokens][size]
};

}  // namespace jang
