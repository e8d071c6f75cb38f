#include "model/layers/attention.h"

#include <algorithm>

#include "model/layers/attention_pass.h"
#include "model/wanted_rows.h"

namespace jang {

AttentionLayer::AttentionLayer(const AttentionSpec& spec, WeightBinder& binder)
    : spec_(spec), o_(binder.linear(spec.o)) {
  if (spec.qkv) {
    const LinearWeight all = binder.linear(*spec.qkv);
    q_ = rows_of(all, 0, spec.q.out);
    k_ = rows_of(all, spec.q.out, spec.k.out);
    v_ = rows_of(all, spec.q.out + spec.k.out, spec.v.out);
  } else {
    q_ = binder.linear(spec.q);
    if (!shares()) k_ = binder.linear(spec.k);
    if (!shares() && !spec.keys_as_values) v_ = binder.linear(spec.v);
  }
  q_norm_ = make_norm(spec.q_norm, binder);
  k_norm_ = make_norm(spec.k_norm, binder);
  if (spec.v_norm && !spec.v_norm->path.empty()) v_weight_ = binder.norm(*spec.v_norm);
  if (!spec.sinks.empty())
    sinks_ = binder.values(spec.sinks, {static_cast<uint64_t>(spec.n_heads)});
}

bool AttentionLayer::forward(LayerContext& context, const float* x, float* out) const {
  const LayerContext asking = wanted_part(context);
  if (!project(context, asking, x)) return false;
  if (spec_.gated) part_gates(asking);
  rotate_and_store(context, asking);
  if (asking.tokens == 0) return true;
  AttentionPass(spec_, asking, sinks_).run();
  if (spec_.gated) apply_gates(asking);
  const LinearJob job{&o_, out, o_.rows};
  return context.linear.run({&job, 1}, context.work.attended.data(), asking.tokens);
}

bool AttentionLayer::project(LayerContext& context, const LayerContext& asking,
                             const float* x) const {
  Workspace& work = context.work;
  const auto reserve = [](AlignedBuffer<float>& buffer, int64_t rows, int64_t columns) {
    buffer.reserve_discarding(static_cast<std::size_t>(rows * columns));
  };
  reserve(work.q, asking.tokens, spec_.n_heads * spec_.head_dim);
  if (spec_.gated) reserve(work.gated_q, asking.tokens, q_.rows);
  float* const q = spec_.gated ? work.gated_q.data() : work.q.data();
  const int64_t rows = spec_.n_kv_heads * spec_.head_dim;  // of keys, and of values
  reserve(work.k, context.tokens, rows);
  reserve(work.v, context.tokens, rows);
  const LinearJob jobs[] = {
      {&q_, q, q_.rows}, {&k_, work.k.data(), rows}, {&v_, work.v.data(), rows}};
  const std::size_t count = shares() ? 1 : spec_.keys_as_values ? 2 : 3;
  const auto all = std::span(jobs).first(count);
  if (context.wanted == nullptr) return context.linear.run(all, x, context.tokens);
  if (count > 1 && !context.linear.run(all.subspan(1), x, context.tokens)) return false;
  return asking.tokens == 0 ||
         context.linear.run(all.first(1), wanted_input(context, x), asking.tokens);
}

void AttentionLayer::prepare_heads(const LayerContext& context, const SequenceSlice& sequence,
                                   int64_t t, const std::optional<NormLayer>& norm, int64_t heads,
                                   float* row) const {
  const kernels::KernelTable& kernels = context.kernels;
  const int64_t dim = spec_.head_dim;
  const bool centred = norm && norm->spec.kind == NormKind::kLayer;
  if (centred) {
    // One call for all heads, or one for each where each has weights of its own.
    const bool own = norm->spec.heads > 0;
    for (int64_t h = 0; h < heads; h += own ? 1 : heads) {
      kernels.layer_norm(row + h * dim, norm->weight.data() + (own ? h * dim : 0),
                         norm->bias_data(), norm->spec.eps, own ? 1 : heads, dim, row + h * dim);
    }
  }
  const bool rms = norm && !centred;
  const float offset = rms ? norm->offset() : 0.0f;
  const int64_t normed = rms ? norm->spec.size : dim;
  // One call for norm and rotary positions, unless the norm is of all heads together or something
  // happens between the two.
  const bool apart = normed != dim || spec_.rope < 0 || spec_.clip > 0.0f;
  if (rms && apart) {
    kernels.rms_norm(row, normed, norm->weight.data(), offset, norm->spec.eps, heads * dim / normed,
                     normed, row, normed);
  }
  if (spec_.clip > 0.0f) kernels.clamp(row, spec_.clip, heads * dim);
  if (spec_.rope < 0) return;
  const RopeTable& rope = sequence.ropes[static_cast<std::size_t>(spec_.rope)];
  const int64_t at = sequence.position - sequence.rope_begin + t;
  const int count = static_cast<int>(heads);
  const int half = static_cast<int>(rope.half);
  if (rms && !apart) {
    kernels.norm_rope(row, dim, count, static_cast<int>(dim), norm->weight.data(), offset,
                      norm->spec.eps, half, rope.interleaved, rope.cos_row(at), rope.sin_row(at));
  } else {
    kernels.rope(row, dim, count, half, rope.interleaved, rope.cos_row(at), rope.sin_row(at));
  }
}

// Queries by themselves, as the rest of the layer wants them; the gates stay where they are.
void AttentionLayer::part_gates(const LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t dim = spec_.head_dim;
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t head = begin * spec_.n_heads; head < end * spec_.n_heads; ++head)
      std::copy_n(work.gated_q.data() + 2 * head * dim, dim, work.q.data() + head * dim);
  });
}

void AttentionLayer::apply_gates(const LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t dim = spec_.head_dim;
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t head = begin * spec_.n_heads; head < end * spec_.n_heads; ++head) {
      float* const attended = work.attended.data() + head * dim;
      context.kernels.sigmoid_mul(attended, work.gated_q.data() + (2 * head + 1) * dim, dim,
                                  attended);
    }
  });
}

void AttentionLayer::rotate_queries(const LayerContext& context, const SequenceSlice& sequence,
                                    int64_t begin, int64_t end) const {
  const int64_t dim = spec_.head_dim;
  const int64_t row = spec_.n_heads * dim;
  float* const q = context.work.q.data() + sequence.row * row;
  for (int64_t t = begin; t < end; ++t)
    prepare_heads(context, sequence, t, q_norm_, spec_.n_heads, q + t * row);
  // Products of two rotated vectors are those of the vectors; finish() rotates the result back.
  if (sequence.cache->type() == KvType::kQ4) {
    context.kernels.hadamard(q + begin * row, dim, (end - begin) * spec_.n_heads,
                             static_cast<int>(dim));
  }
}

void AttentionLayer::store_keys(const LayerContext& context, const SequenceSlice& sequence,
                                int64_t begin, int64_t end) const {
  const int64_t dim = spec_.head_dim;
  const int64_t kv_heads = spec_.n_kv_heads;
  const int64_t row = kv_heads * dim;
  float* const k = context.work.k.data() + sequence.row * row;
  float* const v = context.work.v.data() + sequence.row * row;
  if (spec_.keys_as_values) std::copy_n(k + begin * row, (end - begin) * row, v + begin * row);
  for (int64_t t = begin; t < end; ++t)
    prepare_heads(context, sequence, t, k_norm_, kv_heads, k + t * row);
  if (spec_.v_norm) {
    float* const first = v + begin * row;
    context.kernels.rms_norm(first, dim, v_weight_.empty() ? nullptr : v_weight_.data(), 0.0f,
                             spec_.v_norm->eps, (end - begin) * kv_heads, dim, first, dim);
  }
  if (spec_.clip > 0.0f) context.kernels.clamp(v + begin * row, spec_.clip, (end - begin) * row);
  const KvType type = sequence.cache->type();
  if (type == KvType::kQ4) {
    for (float* const rows : {k, v}) {
      context.kernels.hadamard(rows + begin * row, dim, (end - begin) * kv_heads,
                               static_cast<int>(dim));
    }
  }
  for (int64_t h = 0; h < kv_heads; ++h) {
    const int64_t from = begin * row + h * dim;
    context.kernels.kv_store(k + from, row, end - begin, static_cast<int>(dim), type,
                             sequence.cache->key_blocks(context.layer, h),
                             sequence.position + begin);
    context.kernels.kv_store(v + from, row, end - begin, static_cast<int>(dim), type,
                             sequence.cache->value_blocks(context.layer, h),
                             sequence.position + begin);
  }
}

void AttentionLayer::rotate_and_store(const LayerContext& context,
                                      const LayerContext& asking) const {
  const auto walk = [&](const LayerContext& part, bool queries, bool keys) {
    part.pool.split(part.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (const SequenceSlice& sequence : part.sequences) {
        const int64_t from = std::max(begin, sequence.row) - sequence.row;
        const int64_t to = std::min(end, sequence.row + sequence.tokens) - sequence.row;
        if (from >= to) continue;
        if (queries) rotate_queries(part, sequence, from, to);
        if (keys) store_keys(part, sequence, from, to);
      }
    });
  };
  const bool together = context.wanted == nullptr;
  walk(context, together, !shares());
  if (!together) walk(asking, true, false);
}

}  // namespace jang
