#include "model/layers/mamba2.h"

#include <algorithm>
#include <cmath>

#include "model/layers/parts.h"

namespace jang {
namespace {

using kernels::kDeltaChunk;

// Heads that a thread takes at a time: their tokens' products of B and C are made once.
constexpr int64_t kHeadsOfAPart = 4;

}  // namespace

Mamba2Layer::Mamba2Layer(const Mamba2Spec& spec, WeightBinder& binder)
    : spec_(spec),
      shared_(spec.heads / spec.groups),
      parts_(parts_for(shared_, kHeadsOfAPart)),
      in_(binder.linear(spec.in)),
      out_(binder.linear(spec.out)),
      convolution_(spec.convolution, spec.channels(), spec.taps, spec.convolution_bias, binder),
      rate_(binder.values(spec.decay, shape_of(spec.heads))),
      skip_(binder.values(spec.skip, shape_of(spec.heads))),
      shift_(binder.values(spec.step_bias, shape_of(spec.heads))) {
  if (spec.norm) norm_ = binder.norm(*spec.norm);
  for (float& rate : rate_) rate = static_cast<float>(-std::exp(static_cast<double>(rate)));
}

bool Mamba2Layer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  work.q.reserve_discarding(static_cast<std::size_t>(context.tokens * in_.rows));
  const LinearJob in{&in_, work.q.data(), in_.rows};
  if (!context.linear.run({&in, 1}, x, context.tokens)) return false;
  prepare(context);
  run_rule(context);
  finish(context);
  const LinearJob job{&out_, out, out_.rows};
  return context.linear.run({&job, 1}, work.attended.data(), context.tokens);
}

Mamba2Layer::Heads Mamba2Layer::heads_of(int64_t part) const noexcept {
  const int64_t group = part / parts_, first = part % parts_ * kHeadsOfAPart;
  return {group, group * shared_ + first, std::min(kHeadsOfAPart, shared_ - first)};
}

/// Convolved channels, steps and logarithms of decays.
void Mamba2Layer::prepare(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t channels = spec_.channels(), heads = spec_.heads, inner = spec_.inner();
  work.mixed.reserve_discarding(static_cast<std::size_t>(context.tokens * channels));
  work.beta.reserve_discarding(static_cast<std::size_t>(context.tokens * heads));
  work.decay.reserve_discarding(static_cast<std::size_t>(context.tokens * heads));
  const auto gate = [&](int64_t row) {
    context.kernels.step_gates(work.q.data() + row * in_.rows + inner + channels, shift_.data(),
                               rate_.data(), spec_.least_step, spec_.largest_step, heads,
                               work.beta.data() + row * heads, work.decay.data() + row * heads);
  };
  convolution_.run(context, work.q.data() + inner, in_.rows, work.mixed.data(), gate);
}

void Mamba2Layer::run_rule(LayerContext& context) const {
  Workspace& work = context.work;
  const auto size = static_cast<std::size_t>(context.tokens * spec_.inner());
  work.updates.reserve_discarding(size);
  work.attended.reserve_discarding(size);
  const int64_t scratch = parts_for(kernels::ssd_scratch(spec_.state, spec_.head_dim), 16) * 16;
  work.scratch.reserve_discarding(static_cast<std::size_t>(scratch * context.pool.size()));
  const int64_t parts = spec_.groups * parts_;
  const auto units = static_cast<int64_t>(context.sequences.size()) * parts;
  context.pool.share(units, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const SequenceSlice& sequence = context.sequences[static_cast<std::size_t>(unit / parts)];
      const Heads heads = heads_of(unit % parts);
      run_heads(context, sequence, heads, work.scratch.data() + worker * scratch);
      remember(context, sequence, heads);
    }
  });
}

/// The rule over a sequence's tokens, chunk by chunk.
void Mamba2Layer::run_heads(LayerContext& context, const SequenceSlice& sequence,
                            const Heads& heads, float* scratch) const {
  Workspace& work = context.work;
  const RecurrentState& memory = sequence.cache->recurrent();
  const int64_t end = sequence.position + sequence.tokens;
  const int64_t channels = spec_.channels(), inner = spec_.inner(), keys = spec_.state;
  const int64_t column = heads.first * spec_.head_dim;
  const int64_t state = heads.first * keys * spec_.head_dim;
  for (int64_t at = sequence.position; at < end;) {
    const int64_t chunk = RecurrentState::chunk_begin(at);
    const int64_t stop = std::min(end, chunk + kDeltaChunk);
    const StateSlot slot = memory.slot(context.layer, chunk);
    const int64_t row = sequence.row + at - sequence.position;
    const float* const mixed = work.mixed.data() + row * channels;
    const float* const b = mixed + inner + heads.group * keys;
    // The other slot is there only if this call reaches it.
    float* const next =
        stop == chunk + kDeltaChunk ? memory.slot(context.layer, stop).state + state : nullptr;
    context.kernels.ssd_chunk({.q = b + spec_.groups * keys,
                               .k = b,
                               .qk_stride = channels,
                               .x = mixed + column,
                               .x_stride = channels,
                               .step = work.beta.data() + row * spec_.heads + heads.first,
                               .log_decay = work.decay.data() + row * spec_.heads + heads.first,
                               .gate_stride = spec_.heads,
                               .skip = skip_.data() + heads.first,
                               .past_k = slot.keys + heads.group * keys,
                               .past_k_stride = spec_.groups * keys,
                               .past_u = slot.updates + column,
                               .past_u_stride = inner,
                               .past_decay = slot.decay + heads.first,
                               .past_gate_stride = spec_.heads,
                               .state = slot.state + state,
                               .u = work.updates.data() + row * inner + column,
                               .u_stride = inner,
                               .out = work.attended.data() + row * inner + column,
                               .out_stride = inner,
                               .next_state = next,
                               .past = static_cast<int>(at - chunk),
                               .tokens = static_cast<int>(stop - at),
                               .heads = static_cast<int>(heads.count),
                               .key_dim = static_cast<int>(keys),
                               .value_dim = static_cast<int>(spec_.head_dim),
                               .scratch = scratch});
    at = stop;
  }
}

/// Writes these heads' columns of what the sequence must remember; with a group's first heads those
/// of its B and C.
void Mamba2Layer::remember(const LayerContext& context, const SequenceSlice& sequence,
                           const Heads& heads) const {
  const Workspace& work = context.work;
  const int64_t channels = spec_.channels(), inner = spec_.inner();
  const int64_t column = heads.first * spec_.head_dim, columns = heads.count * spec_.head_dim;
  const int64_t key = heads.group * spec_.state;
  const int64_t b = inner + key, c = b + spec_.groups * spec_.state;
  const int64_t keys = heads.first == heads.group * shared_ ? spec_.state : 0;
  const auto move_input = [&](const float* from, float* out) {
    std::copy_n(from + column, columns, out + column);
    std::copy_n(from + b, keys, out + b);
    std::copy_n(from + c, keys, out + c);
  };
  const auto take_input = [&](int64_t row, float* out) {
    move_input(work.q.data() + row * in_.rows + inner, out);
  };
  const auto take_row = [&](int64_t row, const StateSlot& slot, int64_t i) {
    std::copy_n(work.mixed.data() + row * channels + b, keys,
                slot.keys + i * spec_.groups * spec_.state + key);
    std::copy_n(work.updates.data() + row * inner + column, columns,
                slot.updates + i * inner + column);
    std::copy_n(work.decay.data() + row * spec_.heads + heads.first, heads.count,
                slot.decay + i * spec_.heads + heads.first);
  };
  convolution_.memory(context, sequence).append(sequence, take_input, move_input, take_row);
}

/// Gate and norm of the results, in place.
void Mamba2Layer::finish(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t inner = spec_.inner(), part = inner / spec_.groups;
  const int64_t units = context.tokens * spec_.groups;
  context.pool.split(units, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / spec_.groups, at = unit % spec_.groups * part;
      float* const out = work.attended.data() + row * inner + at;
      const auto norm = [&] {
        context.kernels.rms_norm(out, part, norm_.data() + at, 0.0f, spec_.norm->eps, 1, part, out,
                                 part);
      };
      if (spec_.norm && spec_.norm_before_gate) norm();
      context.kernels.silu_mul(work.q.data() + row * in_.rows + at, out, part, out);
      if (spec_.norm && !spec_.norm_before_gate) norm();
    }
  });
}

}  // namespace jang
