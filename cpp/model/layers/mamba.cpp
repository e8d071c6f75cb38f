#include "model/layers/mamba.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/layers/parts.h"

namespace jang {
namespace {

// Channels that a thread takes at a time: few enough for its states, and many enough for the rows
// that it remembers to be whole lines.
constexpr int64_t kChannelsOfAPart = 64;

}  // namespace

std::optional<MambaLayer::Norm> MambaLayer::bind_norm(const std::optional<NormSpec>& spec,
                                                      WeightBinder& binder) {
  if (!spec) return std::nullopt;
  return Norm{spec->eps, spec->path.empty() ? std::vector<float>{} : binder.norm(*spec)};
}

MambaLayer::MambaLayer(const MambaSpec& spec, WeightBinder& binder)
    : spec_(spec),
      in_(binder.linear(spec.in)),
      parameters_(binder.linear(spec.parameters)),
      step_(binder.linear(spec.step)),
      out_(binder.linear(spec.out)),
      convolution_(spec.convolution, spec.inner, spec.taps, spec.convolution_bias, binder),
      skip_(binder.values(spec.skip, shape_of(spec.inner))),
      step_norm_(bind_norm(spec.step_norm, binder)),
      b_norm_(bind_norm(spec.b_norm, binder)),
      c_norm_(bind_norm(spec.c_norm, binder)) {
  const std::vector<float> stored = binder.values(spec.decay, shape_of(spec.inner, spec.state));
  rate_.resize(stored.size());
  for (int64_t c = 0; c < spec.inner; ++c) {
    for (int64_t n = 0; n < spec.state; ++n) {
      const double rate = stored[static_cast<std::size_t>(c * spec.state + n)];
      rate_[static_cast<std::size_t>(n * spec.inner + c)] = static_cast<float>(-std::exp(rate));
    }
  }
}

bool MambaLayer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  const auto room = [&](AlignedBuffer<float>& buffer, int64_t columns) {
    buffer.reserve_discarding(static_cast<std::size_t>(context.tokens * columns));
    return buffer.data();
  };
  const auto run = [&](const LinearWeight& weight, float* to, const float* from) {
    const LinearJob job{&weight, to, weight.rows};
    return context.linear.run({&job, 1}, from, context.tokens);
  };
  if (!run(in_, room(work.q, in_.rows), x)) return false;
  convolution_.run(context, work.q.data(), in_.rows, room(work.mixed, spec_.inner));
  if (!run(parameters_, room(work.b, parameters_.rows), work.mixed.data())) return false;
  room(work.a, spec_.rank);
  norm_parameters(context);
  if (!run(step_, room(work.decay, spec_.inner), work.a.data())) return false;
  room(work.attended, spec_.inner);
  scan(context);
  return run(out_, out, work.attended.data());
}

/// Norms B and C where they lie and gives the factors of the step rows of their own.
void MambaLayer::norm_parameters(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t rank = spec_.rank, state = spec_.state;
  const auto norm = [&](const std::optional<Norm>& by, const float* x, int64_t n, float* out) {
    if (by) {
      context.kernels.rms_norm(x, n, by->weight.empty() ? nullptr : by->weight.data(), 0.0f,
                               by->eps, 1, n, out, n);
    } else if (x != out) {
      std::copy_n(x, n, out);
    }
  };
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t row = begin; row < end; ++row) {
      float* const parts = work.b.data() + row * parameters_.rows;
      norm(step_norm_, parts, rank, work.a.data() + row * rank);
      norm(b_norm_, parts + rank, state, parts + rank);
      norm(c_norm_, parts + rank + state, state, parts + rank + state);
    }
  });
}

void MambaLayer::scan(LayerContext& context) const {
  const int64_t parts = parts_for(spec_.inner, kChannelsOfAPart);
  const auto units = static_cast<int64_t>(context.sequences.size()) * parts;
  context.pool.share(units, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % parts * kChannelsOfAPart;
      scan_channels(context, context.sequences[static_cast<std::size_t>(unit / parts)], first,
                    std::min(spec_.inner, first + kChannelsOfAPart));
    }
  });
  for (const SequenceSlice& sequence : context.sequences) {
    const auto mark = [&](int64_t position) {
      const int64_t chunk = RecurrentState::chunk_begin(position);
      *sequence.cache->recurrent().slot(context.layer, chunk).walked =
          static_cast<float>(position - chunk);
    };
    mark(sequence.position);
    mark(sequence.position + sequence.tokens);  // of the same slot, where the call stayed in it
  }
}

/// The channels [begin, end) of a sequence's tokens: state, result and gate, memory.
void MambaLayer::scan_channels(LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                               int64_t end) const {
  Workspace& work = context.work;
  const RecurrentState& memory = sequence.cache->recurrent();
  const int64_t inner = spec_.inner, columns = end - begin;
  for (int64_t row = sequence.row; row < sequence.row + sequence.tokens; ++row) {
    float* const step = work.decay.data() + row * inner + begin;
    context.kernels.step_gates(step, nullptr, nullptr, 0.0f, std::numeric_limits<float>::infinity(),
                               columns, step, nullptr);
  }
  const int64_t stop = sequence.position + sequence.tokens;
  const int64_t first = RecurrentState::chunk_begin(sequence.position);
  const int64_t last = RecurrentState::chunk_begin(stop);
  const StateSlot from = memory.slot(context.layer, first);
  const StateSlot to = memory.slot(context.layer, last);
  recall(context, sequence, from, begin, end);
  const auto copy_state = [&](const float* source, float* target) {
    if (source == target) return;
    for (int64_t n = 0; n < spec_.state; ++n)
      std::copy_n(source + n * inner + begin, columns, target + n * inner + begin);
  };
  // A call that leaves its chunk leaves what is known there as it was.
  copy_state(from.present, to.present);
  const auto walk = [&](int64_t position, int64_t until) {
    if (position == until) return;
    const int64_t row = sequence.row + position - sequence.position;
    const float* const parameters = work.b.data() + row * parameters_.rows + spec_.rank;
    context.kernels.selective_scan({.x = work.mixed.data() + row * inner + begin,
                                    .x_stride = inner,
                                    .step = work.decay.data() + row * inner + begin,
                                    .step_stride = inner,
                                    .in = parameters,
                                    .in_stride = parameters_.rows,
                                    .read = parameters + spec_.state,
                                    .read_stride = parameters_.rows,
                                    .rate = rate_.data() + begin,
                                    .rate_stride = inner,
                                    .skip = skip_.data() + begin,
                                    .state = to.present + begin,
                                    .state_stride = inner,
                                    .out = work.attended.data() + row * inner + begin,
                                    .out_stride = inner,
                                    .tokens = until - position,
                                    .channels = columns,
                                    .size = spec_.state});
  };
  if (last != first) {
    walk(sequence.position, last);
    copy_state(to.present, to.state);
  }
  walk(std::max(last, sequence.position), stop);
  for (int64_t row = sequence.row; row < sequence.row + sequence.tokens; ++row) {
    float* const out = work.attended.data() + row * inner + begin;
    context.kernels.silu_mul(work.q.data() + row * in_.rows + inner + begin, out, columns, out);
  }
  remember(context, sequence, begin, end);
}

/// Makes `present` the state before the call: where it stands behind other tokens, from the
/// chunk's beginning and the rows since.
void MambaLayer::recall(const LayerContext& context, const SequenceSlice& sequence,
                        const StateSlot& slot, int64_t begin, int64_t end) const {
  const int64_t inner = spec_.inner;
  const int64_t past = sequence.position - RecurrentState::chunk_begin(sequence.position);
  if (*slot.walked == static_cast<float>(past)) return;
  for (int64_t n = 0; n < spec_.state; ++n)
    std::copy_n(slot.state + n * inner + begin, end - begin, slot.present + n * inner + begin);
  context.kernels.selective_scan({.x = slot.updates + begin,
                                  .x_stride = inner,
                                  .step = slot.decay + begin,
                                  .step_stride = inner,
                                  .in = slot.keys,
                                  .in_stride = spec_.state,
                                  .read = nullptr,
                                  .read_stride = 0,
                                  .rate = rate_.data() + begin,
                                  .rate_stride = inner,
                                  .skip = nullptr,
                                  .state = slot.present + begin,
                                  .state_stride = inner,
                                  .out = nullptr,
                                  .out_stride = 0,
                                  .tokens = past,
                                  .channels = end - begin,
                                  .size = spec_.state});
}

/// Writes these channels' columns of what the sequence must remember; with the first ones B.
void MambaLayer::remember(const LayerContext& context, const SequenceSlice& sequence, int64_t begin,
                          int64_t end) const {
  const Workspace& work = context.work;
  const int64_t inner = spec_.inner, columns = end - begin;
  const auto move_input = [&](const float* from, float* out) {
    std::copy_n(from + begin, columns, out + begin);
  };
  const auto take_input = [&](int64_t row, float* out) {
    move_input(work.q.data() + row * in_.rows, out);
  };
  const auto take_row = [&](int64_t row, const StateSlot& slot, int64_t i) {
    std::copy_n(work.mixed.data() + row * inner + begin, columns, slot.updates + i * inner + begin);
    std::copy_n(work.decay.data() + row * inner + begin, columns, slot.decay + i * inner + begin);
    if (begin != 0) return;
    std::copy_n(work.b.data() + row * parameters_.rows + spec_.rank, spec_.state,
                slot.keys + i * spec_.state);
  };
  convolution_.memory(context, sequence).append(sequence, take_input, move_input, take_row);
}

}  // namespace jang
