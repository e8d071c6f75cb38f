// attention(x) + feed_forward(x): both see the same normed input, and one residual takes both.
//
// Relies on the layers that it holds; leaves the norm and the residual to branch.h.
#pragma once

#include <variant>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/attention.h"
#include "model/layers/gated_mlp.h"
#include "model/layers/plain_mlp.h"
#include "model/weights.h"

namespace jang {

class ParallelLayer {
 public:
  /// `spec.parallel` holds: a mixer of attention and a dense feed-forward.
  ParallelLayer(const LayerSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten and is not x.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  AttentionLayer attention_;
  std::variant<GatedMlpLayer, PlainMlpLayer> feed_forward_;
};

}  // namespace jang
