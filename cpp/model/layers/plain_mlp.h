// down(act(up x)): the feed-forward without a gate.
//
// Relies on the linear runner and one activation kernel; leaves norms and the residual to branch.h.
#pragma once

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class PlainMlpLayer {
 public:
  PlainMlpLayer(const PlainMlpSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  Activation activation_;
  LinearWeight up_, down_;
};

}  // namespace jang
