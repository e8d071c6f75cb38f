// Grouped-query attention with rotary positions over the KV caches of one or several sequences.
#pragma once

#include <optional>
#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/norm_layer.h"
#include "model/weights.h"

namespace jang {

class AttentionLayer {
 public:
  AttentionLayer(const AttentionSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [wanted tokens][hidden] is overwritten. Writes the
  /// keys and values of all tokens to the reserved part of their caches. False if an observer ended
  /// the pass; so in every layer.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  /// Keys and values of all tokens, and queries of those of `asking`, the wanted ones.
  bool project(LayerContext& context, const LayerContext& asking, const float* x) const;
  /// Norm and rotary positions of one token's heads, in place.
  void prepare_heads(const LayerContext& context, const SequenceSlice& sequence, int64_t t,
                     const std::optional<NormLayer>& norm, int64_t heads, float* row) const;
  void rotate_and_store(const LayerContext& context, const LayerContext& asking) const;
  /// Of tokens [begin, end) of the sequence.
  void rotate_queries(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                      int64_t end) const;
  void store_keys(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                  int64_t end) const;
  void part_gates(const LayerContext& context) const;
  void apply_gates(const LayerContext& context) const;
  /// Keys and values are another layer's.
  bool shares() const noexcept { return spec_.shared_layer >= 0; }

  AttentionSpec spec_;
  LinearWeight q_, k_, v_, o_;
  std::optional<NormLayer> q_norm_, k_norm_;
  std::vector<float> v_weight_;  // of the values' norm, [head_dim]; empty: 1
  std::vector<float> sinks_;     // [n_heads]; empty: none
};

}  // namespace jang
