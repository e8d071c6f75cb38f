#include "model/layers/delta_net.h"

#include <algorithm>
#include <cmath>

#include "model/layers/chunk_memory.h"

namespace jang {
namespace {

using kernels::kDeltaChunk;

constexpr double kLengthEpsilon = 1e-6;  // added to the squared length of queries and keys

}  // namespace

DeltaNetLayer::DeltaNetLayer(const DeltaNetSpec& spec, WeightBinder& binder)
    : spec_(spec),
      group_(spec.value_heads / spec.key_heads),
      qkv_(binder.linear(spec.qkv)),
      b_(binder.linear(spec.b)),
      out_(binder.linear(spec.out)),
      taps_(binder.convolution(spec.convolution, spec.channels(), spec.taps)),
      rate_(binder.values(spec.decay, {static_cast<uint64_t>(spec.value_heads)})),
      shift_(binder.values(spec.step_bias, {static_cast<uint64_t>(spec.value_heads)})),
      norm_(binder.norm(spec.norm)) {
  if (spec.z) z_ = binder.linear(*spec.z);
  if (spec.a) a_ = binder.linear(*spec.a);
  for (float& rate : rate_) rate = static_cast<float>(-std::exp(static_cast<double>(rate)));
  // x / sqrt(sum x^2 + eps) = rms_norm(x, eps / n) / sqrt(n); queries by another 1 / sqrt(n).
  const auto n = static_cast<double>(spec.key_dim);
  k_gain_.assign(static_cast<std::size_t>(spec.key_dim), static_cast<float>(1.0 / std::sqrt(n)));
  q_gain_.assign(k_gain_.size(), static_cast<float>(1.0 / n));
}

bool DeltaNetLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (!project(context, x)) return false;
  prepare(context);
  run_rule(context);
  const LinearJob job{&out_, out, out_.rows};
  return context.linear.run({&job, 1}, context.work.attended.data(), context.tokens);
}

DeltaNetLayer::Parts DeltaNetLayer::parts_of(int64_t key_head) const noexcept {
  const int64_t values = group_ * spec_.value_dim;  // of one key head
  if (!spec_.z) {
    const int64_t at = key_head * (2 * spec_.key_dim + 2 * values);
    const int64_t v = at + 2 * spec_.key_dim;
    const int64_t gates = 2 * group_ * key_head;
    return {at,        at + spec_.key_dim, v,      v + values, gates, gates + group_,
            qkv_.rows, qkv_.rows,          b_.rows};
  }
  return {key_head * spec_.key_dim,
          spec_.keys() + key_head * spec_.key_dim,
          2 * spec_.keys() + key_head * values,
          key_head * values,
          group_ * key_head,
          group_ * key_head,
          qkv_.rows,
          z_.rows,
          b_.rows};
}

bool DeltaNetLayer::project(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const auto room = [&](AlignedBuffer<float>& buffer, int64_t columns) {
    buffer.reserve_discarding(static_cast<std::size_t>(context.tokens * columns));
    return buffer.data();
  };
  std::vector<LinearJob> jobs = {{&qkv_, room(work.q, qkv_.rows), qkv_.rows}};
  if (spec_.z) jobs.push_back({&z_, room(work.gate, z_.rows), z_.rows});
  jobs.push_back({&b_, room(work.b, b_.rows), b_.rows});
  if (spec_.a) jobs.push_back({&a_, room(work.a, a_.rows), a_.rows});
  return context.linear.run(jobs, x, context.tokens);
}

void DeltaNetLayer::prepare(LayerContext& context) const {
  Workspace& work = context.work;
  const auto tokens = static_cast<std::size_t>(context.tokens);
  work.mixed.reserve_discarding(tokens * static_cast<std::size_t>(spec_.channels()));
  work.beta.reserve_discarding(tokens * static_cast<std::size_t>(spec_.value_heads));
  work.decay.reserve_discarding(tokens * static_cast<std::size_t>(spec_.value_heads));
  const int64_t heads = spec_.key_heads;
  context.pool.split(context.tokens * heads, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (const SequenceSlice& sequence : context.sequences) {
      const int64_t first = sequence.row * heads;
      const int64_t last = (sequence.row + sequence.tokens) * heads;
      for (int64_t unit = std::max(begin, first); unit < std::min(end, last); ++unit)
        prepare_head(context, sequence, (unit - first) / heads, (unit - first) % heads);
    }
  });
}

/// Token `t` of a sequence: convolved channels of one key head and its value heads, q and k at
/// their lengths, gates.
void DeltaNetLayer::prepare_head(LayerContext& context, const SequenceSlice& sequence, int64_t t,
                                 int64_t key_head) const {
  Workspace& work = context.work;
  const kernels::KernelTable& kernels = context.kernels;
  const Parts parts = parts_of(key_head);
  const int64_t channels = spec_.channels();
  const int64_t row = sequence.row + t;
  const ChunkMemory memory{sequence.cache->recurrent(), context.layer, channels, spec_.taps};
  const float* const history = memory.history(sequence.position);
  float* const mixed = work.mixed.data() + row * channels;
  const auto convolve = [&](int64_t from, int64_t to, int64_t count) {
    kernels.causal_conv({.x = work.q.data() + sequence.row * parts.stride + from,
                         .x_stride = parts.stride,
                         .history = history + to,
                         .history_stride = channels,
                         .weights = taps_.data() + to,
                         .weight_stride = channels,
                         .bias = nullptr,
                         .first = t,
                         .tokens = t + 1,
                         .channels = count,
                         .taps = static_cast<int>(spec_.taps),
                         .silu = true,
                         .out = mixed - t * channels + to,
                         .out_stride = channels});
  };
  const int64_t dim = spec_.key_dim;
  const int64_t values = group_ * spec_.value_dim;
  const int64_t q = key_head * dim, k = spec_.keys() + q;
  convolve(parts.q, q, dim);
  convolve(parts.k, k, dim);
  convolve(parts.v, 2 * spec_.keys() + key_head * values, values);
  const auto epsilon = static_cast<float>(kLengthEpsilon / static_cast<double>(dim));
  kernels.rms_norm(mixed + q, dim, q_gain_.data(), 0.0f, epsilon, 1, dim, mixed + q, dim);
  kernels.rms_norm(mixed + k, dim, k_gain_.data(), 0.0f, epsilon, 1, dim, mixed + k, dim);
  const int64_t gate = row * spec_.value_heads + key_head * group_;
  const float* const a = spec_.a ? work.a.data() : work.b.data();
  kernels.delta_gates(work.b.data() + row * parts.gate_stride + parts.b,
                      a + row * parts.gate_stride + parts.a, rate_.data() + key_head * group_,
                      shift_.data() + key_head * group_, group_, work.beta.data() + gate,
                      work.decay.data() + gate);
}

void DeltaNetLayer::run_rule(LayerContext& context) const {
  Workspace& work = context.work;
  const auto size = static_cast<std::size_t>(context.tokens * spec_.values());
  work.updates.reserve_discarding(size);
  work.attended.reserve_discarding(size);
  const int64_t scratch = (kernels::delta_scratch(spec_.key_dim, spec_.value_dim) + 15) / 16 * 16;
  work.scratch.reserve_discarding(static_cast<std::size_t>(scratch * context.pool.size()));
  const int64_t heads = spec_.key_heads;
  const auto units = static_cast<int64_t>(context.sequences.size()) * heads;
  context.pool.share(units, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const SequenceSlice& sequence = context.sequences[static_cast<std::size_t>(unit / heads)];
      run_head(context, sequence, unit % heads, work.scratch.data() + worker * scratch);
      remember(context, sequence, unit % heads);
      finish_head(context, sequence, unit % heads);
    }
  });
}

/// The rule over a sequence's tokens, chunk by chunk, for the value heads of one key head.
void DeltaNetLayer::run_head(LayerContext& context, const SequenceSlice& sequence, int64_t key_head,
                             float* scratch) const {
  Workspace& work = context.work;
  const RecurrentState& memory = sequence.cache->recurrent();
  const int64_t end = sequence.position + sequence.tokens;
  const int64_t channels = spec_.channels(), values = spec_.values();
  for (int64_t h = key_head * group_; h < (key_head + 1) * group_; ++h) {
    for (int64_t at = sequence.position; at < end;) {
      const int64_t chunk = RecurrentState::chunk_begin(at);
      const int64_t stop = std::min(end, chunk + kDeltaChunk);
      const StateSlot slot = memory.slot(context.layer, chunk);
      const int64_t row = sequence.row + at - sequence.position;
      const float* const mixed = work.mixed.data() + row * channels;
      const int64_t state = h * spec_.key_dim * spec_.value_dim;
      const int64_t column = h * spec_.value_dim;
      // The other slot is there only if this call reaches it.
      float* const next =
          stop == chunk + kDeltaChunk ? memory.slot(context.layer, stop).state + state : nullptr;
      context.kernels.delta_chunk({.q = mixed + key_head * spec_.key_dim,
                                   .k = mixed + spec_.keys() + key_head * spec_.key_dim,
                                   .qk_stride = channels,
                                   .v = mixed + 2 * spec_.keys() + column,
                                   .v_stride = channels,
                                   .beta = work.beta.data() + row * spec_.value_heads + h,
                                   .log_decay = work.decay.data() + row * spec_.value_heads + h,
                                   .gate_stride = spec_.value_heads,
                                   .past_k = slot.keys + key_head * spec_.key_dim,
                                   .past_k_stride = spec_.keys(),
                                   .past_u = slot.updates + column,
                                   .past_u_stride = values,
                                   .past_decay = slot.decay + h,
                                   .past_gate_stride = spec_.value_heads,
                                   .state = slot.state + state,
                                   .u = work.updates.data() + row * values + column,
                                   .u_stride = values,
                                   .out = work.attended.data() + row * values + column,
                                   .out_stride = values,
                                   .next_state = next,
                                   .past = static_cast<int>(at - chunk),
                                   .tokens = static_cast<int>(stop - at),
                                   .key_dim = static_cast<int>(spec_.key_dim),
                                   .value_dim = static_cast<int>(spec_.value_dim),
                                   .scratch = scratch});
      at = stop;
    }
  }
}

/// Writes this key head's columns of what the sequence must remember.
void DeltaNetLayer::remember(const LayerContext& context, const SequenceSlice& sequence,
                             int64_t key_head) const {
  const Workspace& work = context.work;
  const Parts parts = parts_of(key_head);
  const int64_t channels = spec_.channels();
  const int64_t dim = spec_.key_dim, values = group_ * spec_.value_dim;
  const int64_t q = key_head * dim, k = spec_.keys() + q;
  const int64_t v = 2 * spec_.keys() + key_head * values;
  const auto take_input = [&](int64_t row, float* out) {
    const float* from = work.q.data() + row * parts.stride;
    std::copy_n(from + parts.q, dim, out + q);
    std::copy_n(from + parts.k, dim, out + k);
    std::copy_n(from + parts.v, values, out + v);
  };
  const auto move_input = [&](const float* from, float* out) {
    std::copy_n(from + q, dim, out + q);
    std::copy_n(from + k, dim, out + k);
    std::copy_n(from + v, values, out + v);
  };
  const auto take_row = [&](int64_t row, const StateSlot& slot, int64_t i) {
    std::copy_n(work.mixed.data() + row * channels + k, dim, slot.keys + i * spec_.keys() + q);
    const int64_t column = key_head * values;
    std::copy_n(work.updates.data() + row * spec_.values() + column, values,
                slot.updates + i * spec_.values() + column);
    const int64_t gate = key_head * group_;
    std::copy_n(work.decay.data() + row * spec_.value_heads + gate, group_,
                slot.decay + i * spec_.value_heads + gate);
  };
  ChunkMemory{sequence.cache->recurrent(), context.layer, channels, spec_.taps}.append(
      sequence, take_input, move_input, take_row);
}

/// Norm and gate of the results of a key head's value heads.
void DeltaNetLayer::finish_head(const LayerContext& context, const SequenceSlice& sequence,
                                int64_t key_head) const {
  Workspace& work = context.work;
  const Parts parts = parts_of(key_head);
  const int64_t dim = spec_.value_dim;
  const float* const z = spec_.z ? work.gate.data() : work.q.data();
  for (int64_t row = sequence.row; row < sequence.row + sequence.tokens; ++row) {
    float* const out = work.attended.data() + row * spec_.values() + key_head * group_ * dim;
    context.kernels.rms_norm(out, dim, norm_.data(), 0.0f, spec_.norm.eps, group_, dim, out, dim);
    context.kernels.silu_mul(z + row * parts.z_stride + parts.z, out, group_ * dim, out);
  }
}

}  // namespace jang
