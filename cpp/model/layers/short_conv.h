// A gated short convolution: what takes the place of attention in most layers of lfm2.
//
//   in (B, C, x) -> by sequence and some channels: products B * x, their causal convolution, times
//   C, what the sequence remembers -> out
//
// Relies on the causal_conv kernel, which takes the gates along, and on the slots of
// model/recurrent_state.h, where the products of the last positions are. A token gets the same bits
// however a sequence is cut into calls and whatever else is in a batch, in exact precision.
#pragma once

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/causal_convolution.h"
#include "model/weights.h"

namespace jang {

class ShortConvLayer {
 public:
  ShortConvLayer(const ShortConvSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. Appends to the
  /// recurrent states of the caches. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  void convolve(LayerContext& context) const;
  void convolve_channels(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                         int64_t end) const;
  void remember(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                int64_t end) const;

  ShortConvSpec spec_;
  LinearWeight in_, out_;
  CausalConvolution convolution_;
};

}  // namespace jang
