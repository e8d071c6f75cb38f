// projection(act(gate h) * e): a token's own input e of the layer (LayerInputsSpec) let in by a
// gate.
//
// Relies on model/layer_inputs.h for e, which lies in the context; leaves the norm and the residual
// to branch.h.
#pragma once

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class LayerInputLayer {
 public:
  LayerInputLayer(const LayerInputBranchSpec& spec, WeightBinder& binder);

  /// `x`: hidden states [tokens][hidden]; `out` [tokens][hidden] is overwritten.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  Activation activation_;
  LinearWeight gate_, projection_;
};

}  // namespace jang
