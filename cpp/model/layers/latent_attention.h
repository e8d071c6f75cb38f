// Multi-head latent attention over the KV caches of one or several sequences, in its absorbed form.
//
// With the latent c and the rotated key r of a position, k_h = [W_h c | r] and v_h = V_h c, so
//   q_h . k_h = (W_h^T q) . c + q_r . r   and   sum p v_h = V_h (sum p c):
// attention of all heads over one key of rank + rotary_dim channels, whose first `rank` are the
// value, too. The cache holds that key alone. The same form serves prompts and single tokens, so
// that a token gets the same bits however a sequence is cut into calls.
//
//   in -> queries and keys by token -> W_h^T by head -> AttentionPass -> V_h by head -> out
//
// The pass makes means of all channels of a key, the rotary_dim last of which nobody reads.
#pragma once

#include <optional>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/head_matrices.h"
#include "model/norm_layer.h"
#include "model/weights.h"

namespace jang {

class LatentAttentionLayer {
 public:
  LatentAttentionLayer(const LatentAttentionSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. Writes the keys of
  /// these tokens to the reserved part of their caches. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  bool project(LayerContext& context, const float* x) const;
  void prepare(LayerContext& context) const;
  void prepare_token(LayerContext& context, const SequenceSlice& sequence, int64_t t) const;
  bool show_latents(LayerContext& context) const;
  void store_keys(LayerContext& context) const;
  bool attend(LayerContext& context) const;

  LatentAttentionSpec spec_;
  AttentionSpec absorbed_;  // as AttentionPass sees it
  LinearWeight q_, kv_a_, o_;
  std::optional<LinearWeight> q_a_, kv_b_;
  std::optional<NormLayer> q_norm_;
  NormLayer kv_norm_;
  HeadMatrices embed_q_, unembed_out_;
};

}  // namespace jang
