// down(act(gate x) * up x).
#pragma once

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class GatedMlpLayer {
 public:
  GatedMlpLayer(const GatedMlpSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  Activation activation_;
  LinearWeight gate_, up_, down_;
};

}  // namespace jang
