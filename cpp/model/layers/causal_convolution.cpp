#include "model/layers/causal_convolution.h"

#include <algorithm>

#include "model/layers/parts.h"

namespace jang {
namespace {

constexpr int64_t kChannelsOfAPart = 512;  // that a thread takes at a time

}  // namespace

CausalConvolution::CausalConvolution(const std::string& path, int64_t channels, int64_t taps,
                                     bool biased, WeightBinder& binder)
    : channels_(channels), taps_(taps), weights_(binder.convolution(path, channels, taps)) {
  if (biased) bias_ = binder.values(path + ".bias", shape_of(channels));
}

void CausalConvolution::run(LayerContext& context, const float* x, int64_t stride, float* out,
                            const std::function<void(int64_t)>& beside) const {
  const int64_t parts = parts_for(channels_, kChannelsOfAPart);
  const auto run_part = [&](const SequenceSlice& sequence, int64_t t, int64_t part) {
    const int64_t at = part * kChannelsOfAPart;
    context.kernels.causal_conv(
        {.x = x + sequence.row * stride + at,
         .x_stride = stride,
         .history = memory(context, sequence).history(sequence.position) + at,
         .history_stride = channels_,
         .weights = weights_.data() + at,
         .weight_stride = channels_,
         .bias = bias_.empty() ? nullptr : bias_.data() + at,
         .first = t,
         .tokens = t + 1,
         .channels = std::min(kChannelsOfAPart, channels_ - at),
         .taps = static_cast<int>(taps_),
         .silu = true,
         .out = out + sequence.row * channels_ + at,
         .out_stride = channels_});
    if (part == 0 && beside) beside(sequence.row + t);
  };
  context.pool.split(context.tokens * parts, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (const SequenceSlice& sequence : context.sequences) {
      const int64_t first = sequence.row * parts;
      const int64_t last = (sequence.row + sequence.tokens) * parts;
      for (int64_t unit = std::max(begin, first); unit < std::min(end, last); ++unit)
        run_part(sequence, (unit - first) / parts, (unit - first) % parts);
    }
  });
}

}  // namespace jang
