// A gated delta rule over recurrent states: projections, a causal convolution, the rule by chunks,
// a gated norm, an output projection.
//
//   in (qkv, z, b, a) -> by token and key head: convolution and silu, lengths of q and k, gates ->
//   by sequence and key head: the rule in chunks at multiples of kDeltaChunk positions, what the
//   sequence remembers, norm and gate of the results -> out
//
// Chunks lie at absolute positions and every sum has its place in a chunk: in exact precision a
// token gets the same bits however a sequence is cut into calls and whatever else is in a batch.
#pragma once

#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class DeltaNetLayer {
 public:
  DeltaNetLayer(const DeltaNetSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. Appends to the
  /// recurrent states of the caches. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  /// Where the parts of one key head and its value heads lie in the rows of the projections.
  struct Parts {
    int64_t q, k, v, z;  // columns; of z in its own rows if it has any, else in those of qkv
    int64_t b, a;        // columns of theirs
    int64_t stride;      // of qkv rows
    int64_t z_stride, gate_stride;
  };
  Parts parts_of(int64_t key_head) const noexcept;
  bool project(LayerContext& context, const float* x) const;
  void prepare(LayerContext& context) const;
  void prepare_head(LayerContext& context, const SequenceSlice& sequence, int64_t t,
                    int64_t key_head) const;
  void run_rule(LayerContext& context) const;
  void run_head(LayerContext& context, const SequenceSlice& sequence, int64_t key_head,
                float* scratch) const;
  void remember(const LayerContext& context, const SequenceSlice& sequence, int64_t key_head) const;
  void finish_head(const LayerContext& context, const SequenceSlice& sequence,
                   int64_t key_head) const;

  DeltaNetSpec spec_;
  int64_t group_;  // value heads of a key head
  LinearWeight qkv_, z_, b_, a_, out_;
  std::vector<float> taps_;             // [taps][channels]
  std::vector<float> rate_, shift_;     // [value_heads]
  std::vector<float> norm_;             // [value_dim]
  std::vector<float> q_gain_, k_gain_;  // [key_dim], one value
};

}  // namespace jang
