// The depthwise convolution before a state space, with its silu, or of a layer that asks for a task
// of its own: the tokens of a call and, before them, what the sequence's cache remembers.
//
// Relies on the causal_conv kernel and the slots of model/recurrent_state.h; leaves to the layer
// which columns its inputs are, and to chunk_memory.h what is remembered of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/layer_context.h"
#include "model/layers/chunk_memory.h"
#include "model/weights.h"

namespace jang {

class CausalConvolution {
 public:
  /// The weight and, if `biased`, the bias of the module `path`.
  CausalConvolution(const std::string& path, int64_t channels, int64_t taps, bool biased,
                    WeightBinder& binder);

  /// `x`: the first input of the first row, rows `stride` apart; `out`: [rows][channels].
  /// beside(row), if any, is called once for each row, in the same region.
  void run(LayerContext& context, const float* x, int64_t stride, float* out,
           const std::function<void(int64_t)>& beside = {}) const;

  /// The weights of the channels [begin, end), and what the sequence remembers of them, in a task
  /// without activation that lacks its tokens.
  kernels::ConvTask task(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                         int64_t end) const;

  ChunkMemory memory(const LayerContext& context, const SequenceSlice& sequence) const {
    return {sequence.cache->recurrent(), context.layer, channels_, taps_};
  }

 private:
  int64_t channels_, taps_;
  std::vector<float> weights_, bias_;  // [taps][channels]; [channels] or empty
};

}  // namespace jang
