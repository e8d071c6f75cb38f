// How far a model drifts from itself when a part of it is replaced: the mean divergence of its
// predictions on a fixed set of tokens. Layers before the part are not run again: a probe starts
// from the hidden states that enter it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/byte_count.h"
#include "calibrate/branch_pass.h"
#include "model/output_head.h"

namespace jang {

class DivergenceProbe {
 public:
  /// `rows` of hidden states, [sequences][tokens][hidden], are what a probe walks with. The binder
  /// binds the model's own weights.
  DivergenceProbe(const ModelSpec& spec, int64_t sequences, int64_t tokens, WeightBinder& binder,
                  ThreadPool& pool, std::function<void()> poll);

  /// Memory of all rows and of a piece of predictions.
  static ByteCount bytes(const ModelSpec& spec, int64_t sequences, int64_t tokens) noexcept;

  /// As BranchPass has them; sequences are those of the probe.
  void link(PassSequences sequences, WeightBinder& binder) {
    pass_.link(std::move(sequences), binder);
  }
  void bind_inputs(WeightBinder& binder) { pass_.bind_inputs(binder); }

  int64_t sequences() const noexcept { return sequences_; }
  /// The states of a sequence, to be filled before run().
  float* rows(int64_t sequence) {
    return rows_.data() + static_cast<std::size_t>(sequence * tokens_ * spec_.hidden);
  }
  /// Number of branches, counted over all layers.
  std::size_t branches() const noexcept { return places_.size(); }

  /// Takes the model's own predictions from rows() before its first branch.
  void set_reference();
  /// Mean KL(model || changed model) over all positions, nats: from rows() before branch `first`,
  /// which `replaced` (bound as layer 0) takes the place of unless null. `head`: null for the
  /// model's own. Overwrites rows().
  double run(std::size_t first, const Branch* replaced, const OutputHead* head = nullptr);

 private:
  struct Place {
    std::size_t layer;
    Branch branch;
  };
  void walk(std::size_t first, const Branch* replaced);
  double divergence_of(const OutputHead& head);

  const ModelSpec& spec_;
  const int64_t sequences_, tokens_;
  ThreadPool& pool_;
  std::function<void()> poll_;
  std::vector<Place> places_;
  OutputHead head_;
  BranchPass pass_;
  LinearRunner linear_;
  AlignedBuffer<float> rows_, reference_;            // [sequences][tokens][hidden]
  AlignedBuffer<float> normed_, logits_, expected_;  // of a piece
};

}  // namespace jang
