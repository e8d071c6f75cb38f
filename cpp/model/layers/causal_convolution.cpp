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

kernels::ConvTask CausalConvolution::task(const LayerContext& context,
                                          const SequenceSlice& sequence, int64_t begin,
                                          int64_t end) const {
  kernels::ConvTask task{};
  task.history = memory(context, sequence).history(sequence.position) + begin;
  task.history_stride = channels_;
  task.weights = weights_.data() + begin;
  task.weight_stride = channels_;
  task.bias = bias_.empty() ? nullptr : bias_.data() + begin;
  task.channels = end - begin;
  task.taps = static_cast<int>(taps_);
  return task;
}

void CausalConvolution::run(LayerContext& context, const float* x, int64_t stride, float* out,
                            const std::function<void(int64_t)>& beside) const {
  const int64_t parts = parts_for(channels_, kChannelsOfAPart);
  const auto run_part = [&](const SequenceSlice& sequence, int64_t t, int64_t part) {
    const int64_t at = part * kChannelsOfAPart;
    kernels::ConvTask one = task(context, sequence, at, std::min(channels_, at + kChannelsOfAPart));
    one.x = x + sequence.row * stride + at;
    one.x_stride = stride;
    one.first = t;
    one.tokens = t + 1;
    one.silu = true;
    one.out = out + sequence.row * channels_ + at;
    one.out_stride = channels_;
    context.kernels.causal_conv(one);
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
