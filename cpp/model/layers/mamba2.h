// State spaces of heads over recurrent states: one projection, a causal convolution, the rule by
// chunks, a gate and norm, an output projection.
//
//   in (z, x, B, C, steps) -> by token: convolution and silu, steps and decays -> by sequence and
//   some heads of a group: the rule in chunks at multiples of kDeltaChunk positions, what the
//   sequence remembers -> by token: gate and norm -> out
//
// Chunks lie at absolute positions and every sum has its place in a chunk: in exact precision a
// token gets the same bits however a sequence is cut into calls and whatever else is in a batch.
#pragma once

#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/causal_convolution.h"
#include "model/weights.h"

namespace jang {

class Mamba2Layer {
 public:
  Mamba2Layer(const Mamba2Spec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. Appends to the
  /// recurrent states of the caches. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  /// Heads [first, first + count), which share the B and C of `group`.
  struct Heads {
    int64_t group, first, count;
  };
  Heads heads_of(int64_t part) const noexcept;
  void prepare(LayerContext& context) const;
  void run_rule(LayerContext& context) const;
  void run_heads(LayerContext& context, const SequenceSlice& sequence, const Heads& heads,
                 float* scratch) const;
  void remember(const LayerContext& context, const SequenceSlice& sequence,
                const Heads& heads) const;
  void finish(LayerContext& context) const;

  Mamba2Spec spec_;
  int64_t shared_;  // heads of a group
  int64_t parts_;   // of a group's heads, each a unit of work
  LinearWeight in_, out_;
  CausalConvolution convolution_;
  std::vector<float> rate_, skip_, shift_;
  std::vector<float> norm_;  // [inner]; empty: none
};

}  // namespace jang
