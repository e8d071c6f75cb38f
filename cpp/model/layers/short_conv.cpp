#include "model/layers/short_conv.h"

#include <algorithm>

#include "model/layers/parts.h"

namespace jang {
namespace {

// Channels that a thread takes at a time, whole lines of every row.
constexpr int64_t kChannelsOfAPart = 128;

}  // namespace

ShortConvLayer::ShortConvLayer(const ShortConvSpec& spec, WeightBinder& binder)
    : spec_(spec),
      in_(binder.linear(spec.in)),
      out_(binder.linear(spec.out)),
      convolution_(spec.convolution, spec.channels, spec.taps, spec.convolution_bias, binder) {}

bool ShortConvLayer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  work.q.reserve_discarding(static_cast<std::size_t>(context.tokens * in_.rows));
  work.mixed.reserve_discarding(static_cast<std::size_t>(context.tokens * spec_.channels));
  const LinearJob in{&in_, work.q.data(), in_.rows};
  if (!context.linear.run({&in, 1}, x, context.tokens)) return false;
  convolve(context);
  const LinearJob job{&out_, out, out_.rows};
  return context.linear.run({&job, 1}, work.mixed.data(), context.tokens);
}

void ShortConvLayer::convolve(LayerContext& context) const {
  const int64_t parts = parts_for(spec_.channels, kChannelsOfAPart);
  const auto units = static_cast<int64_t>(context.sequences.size()) * parts;
  context.pool.share(units, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const SequenceSlice& sequence = context.sequences[static_cast<std::size_t>(unit / parts)];
      const int64_t first = unit % parts * kChannelsOfAPart;
      const int64_t last = std::min(spec_.channels, first + kChannelsOfAPart);
      convolve_channels(context, sequence, first, last);
      remember(context, sequence, first, last);
    }
  });
}

/// The channels [begin, end) of a sequence's tokens, times C.
void ShortConvLayer::convolve_channels(const LayerContext& context, const SequenceSlice& sequence,
                                       int64_t begin, int64_t end) const {
  const int64_t channels = spec_.channels;
  const float* const rows = context.work.q.data() + sequence.row * in_.rows + begin;
  kernels::ConvTask task = convolution_.task(context, sequence, begin, end);
  task.x = rows + 2 * channels;
  task.x_stride = in_.rows;
  task.input_gate = rows;
  task.output_gate = rows + channels;
  task.tokens = sequence.tokens;
  task.out = context.work.mixed.data() + sequence.row * channels + begin;
  task.out_stride = channels;
  context.kernels.causal_conv(task);
}

/// Writes these channels' columns of what the sequence must remember: products, as the kernel makes
/// them of the tokens of a call.
void ShortConvLayer::remember(const LayerContext& context, const SequenceSlice& sequence,
                              int64_t begin, int64_t end) const {
  const auto take_input = [&](int64_t row, float* out) {
    const float* const gate = context.work.q.data() + row * in_.rows;
    const float* const x = gate + 2 * spec_.channels;
    for (int64_t c = begin; c < end; ++c) out[c] = gate[c] * x[c];
  };
  const auto move_input = [&](const float* from, float* out) {
    std::copy_n(from + begin, end - begin, out + begin);
  };
  const auto take_row = [](int64_t /*row*/, const StateSlot& /*slot*/, int64_t /*i*/) {};
  convolution_.memory(context, sequence).append(sequence, take_input, move_input, take_row);
}

}  // namespace jang
