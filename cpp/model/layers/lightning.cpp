#include "model/layers/lightning.h"

#include <algorithm>

#include "model/layers/chunk_memory.h"
#include "model/layers/parts.h"

namespace jang {
namespace {

using kernels::kDeltaChunk;

constexpr float kStep = 1.0f, kSkip = 0.0f;

}  // namespace

LightningLayer::LightningLayer(const LightningSpec& spec, WeightBinder& binder)
    : spec_(spec),
      qkv_(binder.linear(spec.qkv)),
      gate_(binder.linear(spec.gate)),
      out_(binder.linear(spec.out)),
      norm_(binder.norm(spec.norm)) {
  log_decay_.reserve(spec.rates.size());
  for (const double rate : spec.rates) log_decay_.push_back(static_cast<float>(-rate));
}

bool LightningLayer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  work.q.reserve_discarding(static_cast<std::size_t>(context.tokens * qkv_.rows));
  work.gate.reserve_discarding(static_cast<std::size_t>(context.tokens * gate_.rows));
  const LinearJob in[] = {{&qkv_, work.q.data(), qkv_.rows},
                          {&gate_, work.gate.data(), gate_.rows}};
  if (!context.linear.run(in, x, context.tokens)) return false;
  // Cut in whole vectors at places that do not depend on the thread count.
  context.pool.split(context.tokens * qkv_.rows, 1024, [&](int64_t begin, int64_t end, int) {
    float* const values = work.q.data() + begin;
    context.kernels.sigmoid_mul(values, values, end - begin, values);
  });
  run_rule(context);
  finish(context);
  const LinearJob job{&out_, out, out_.rows};
  return context.linear.run({&job, 1}, work.attended.data(), context.tokens);
}

void LightningLayer::run_rule(LayerContext& context) const {
  Workspace& work = context.work;
  const auto size = static_cast<std::size_t>(context.tokens * spec_.inner());
  work.updates.reserve_discarding(size);
  work.attended.reserve_discarding(size);
  const int64_t scratch = parts_for(kernels::ssd_scratch(spec_.head_dim, spec_.head_dim), 16) * 16;
  work.scratch.reserve_discarding(static_cast<std::size_t>(scratch * context.pool.size()));
  const auto units = static_cast<int64_t>(context.sequences.size()) * spec_.heads;
  context.pool.share(units, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const auto& sequence = context.sequences[static_cast<std::size_t>(unit / spec_.heads)];
      run_head(context, sequence, unit % spec_.heads, work.scratch.data() + worker * scratch);
      remember(context, sequence, unit % spec_.heads);
    }
  });
}

/// The rule over a sequence's tokens, chunk by chunk.
void LightningLayer::run_head(LayerContext& context, const SequenceSlice& sequence, int64_t head,
                              float* scratch) const {
  Workspace& work = context.work;
  const RecurrentState& memory = sequence.cache->recurrent();
  const int64_t end = sequence.position + sequence.tokens;
  const int64_t dim = spec_.head_dim, inner = spec_.inner(), stride = qkv_.rows;
  const int64_t column = head * dim, state = head * dim * dim;
  for (int64_t at = sequence.position; at < end;) {
    const int64_t chunk = RecurrentState::chunk_begin(at);
    const int64_t stop = std::min(end, chunk + kDeltaChunk);
    const StateSlot slot = memory.slot(context.layer, chunk);
    const int64_t row = sequence.row + at - sequence.position;
    const float* const q = work.q.data() + row * stride + 3 * column;
    // The other slot is there only if this call reaches it.
    float* const next =
        stop == chunk + kDeltaChunk ? memory.slot(context.layer, stop).state + state : nullptr;
    context.kernels.ssd_chunk({.q = q,
                               .k = q + dim,
                               .qk_stride = stride,
                               .x = q + 2 * dim,
                               .x_stride = stride,
                               .step = &kStep,
                               .log_decay = log_decay_.data() + head,
                               .gate_stride = 0,  // one for all tokens
                               .skip = &kSkip,
                               .past_k = slot.keys + column,
                               .past_k_stride = inner,
                               .past_u = slot.updates + column,
                               .past_u_stride = inner,
                               .past_decay = log_decay_.data() + head,
                               .past_gate_stride = 0,
                               .state = slot.state + state,
                               .u = work.updates.data() + row * inner + column,
                               .u_stride = inner,
                               .out = work.attended.data() + row * inner + column,
                               .out_stride = inner,
                               .next_state = next,
                               .past = static_cast<int>(at - chunk),
                               .tokens = static_cast<int>(stop - at),
                               .heads = 1,
                               .key_dim = static_cast<int>(dim),
                               .value_dim = static_cast<int>(dim),
                               .scratch = scratch});
    at = stop;
  }
}

/// Writes the head's keys and values of what the sequence must remember.
void LightningLayer::remember(const LayerContext& context, const SequenceSlice& sequence,
                              int64_t head) const {
  const Workspace& work = context.work;
  const int64_t dim = spec_.head_dim, inner = spec_.inner(), column = head * dim;
  const auto nothing = [](auto, float*) {};  // there is no convolution
  const auto take_row = [&](int64_t row, const StateSlot& slot, int64_t i) {
    std::copy_n(work.q.data() + row * qkv_.rows + 3 * column + dim, dim,
                slot.keys + i * inner + column);
    std::copy_n(work.updates.data() + row * inner + column, dim, slot.updates + i * inner + column);
  };
  ChunkMemory{sequence.cache->recurrent(), context.layer, 0, 1}.append(sequence, nothing, nothing,
                                                                       take_row);
}

/// Norm and gate of the results, in place.
void LightningLayer::finish(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t inner = spec_.inner();
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t row = begin; row < end; ++row) {
      float* const out = work.attended.data() + row * inner;
      context.kernels.rms_norm(out, inner, norm_.data(), 0.0f, spec_.norm.eps, 1, inner, out,
                               inner);
      context.kernels.sigmoid_mul(out, work.gate.data() + row * inner, inner, out);
    }
  });
}

}  // namespace jang
