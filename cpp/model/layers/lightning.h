// Linear attention of heads whose states decay at rates that are no weights (models.md 1.6).
//
//   qkv and gate projections -> silu of queries, keys and values -> the rule over chunks of
//   kDeltaChunk tokens, head by head -> norm of all heads together, times the gate -> out
//
// The rule is that of a state space whose steps are 1 (ssd_chunk), so prefill is a few products a
// chunk. Relies on model/recurrent_state.h for what lies before the call.
#pragma once

#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class LightningLayer {
 public:
  LightningLayer(const LightningSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  void run_rule(LayerContext& context) const;
  void run_head(LayerContext& context, const SequenceSlice& sequence, int64_t head,
                float* scratch) const;
  void remember(const LayerContext& context, const SequenceSlice& sequence, int64_t head) const;
  void finish(LayerContext& context) const;

  LightningSpec spec_;
  LinearWeight qkv_, gate_, out_;
  std::vector<float> norm_, log_decay_;  // [heads * head_dim]; [heads]
};

}  // namespace jang
