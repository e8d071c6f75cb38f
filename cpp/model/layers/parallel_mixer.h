// attention(x) + mamba(x): two mixers see the same normed input, and one residual takes both.
//
// Relies on the layers that it holds, each with a part of the layer's cache of its own; leaves the
// norm and the residual to branch.h.
#pragma once

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/attention.h"
#include "model/layers/mamba2.h"
#include "model/weights.h"

namespace jang {

class ParallelMixerLayer {
 public:
  ParallelMixerLayer(const ParallelMixerSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten and is not x. False
  /// if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  AttentionLayer attention_;
  Mamba2Layer mamba_;
};

}  // namespace jang
