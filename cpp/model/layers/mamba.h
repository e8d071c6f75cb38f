// A selective state space over recurrent states: projections, a causal convolution, the scan, a
// gate, an output projection.
//
//   in (u, z) -> by token: convolution and silu -> parameters (factors of the step, B, C) and their
//   norms -> step -> by sequence and some channels: ln(1 + e^step), the scan token by token, gate,
//   what the sequence remembers -> out
//
// The state walks on from where the last call left it. The caches keep the state at a chunk's
// beginning as well, and the rows since, from which it is made again where a cache went back. All
// sums have one order: in exact precision a token gets the same bits however a sequence is cut into
// calls and whatever else is in a batch.
#pragma once

#include <optional>
#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/causal_convolution.h"
#include "model/weights.h"

namespace jang {

class MambaLayer {
 public:
  MambaLayer(const MambaSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. Appends to the
  /// recurrent states of the caches. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  struct Norm {
    float eps;
    std::vector<float> weight;  // empty: 1
  };
  static std::optional<Norm> bind_norm(const std::optional<NormSpec>& spec, WeightBinder& binder);

  void norm_parameters(LayerContext& context) const;
  void scan(LayerContext& context) const;
  void scan_channels(LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                     int64_t end) const;
  void recall(const LayerContext& context, const SequenceSlice& sequence, const StateSlot& slot,
              int64_t begin, int64_t end) const;
  void remember(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                int64_t end) const;

  MambaSpec spec_;
  LinearWeight in_, parameters_, step_, out_;
  CausalConvolution convolution_;
  std::vector<float> rate_;  // [state][inner]
  std::vector<float> skip_;  // [inner]
  std::optional<Norm> step_norm_, b_norm_, c_norm_;
};

}  // namespace jang
