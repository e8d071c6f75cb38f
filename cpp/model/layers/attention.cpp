#include "model/layers/attention.h"

#include <algorithm>

#include "model/layers/attention_pass.h"

namespace jang {

AttentionLayer::AttentionLayer(const AttentionSpec& spec, WeightBinder& binder)
    : spec_(spec),
      q_(binder.linear(spec.q)),
      k_(binder.linear(spec.k)),
      v_(binder.linear(spec.v)),
      o_(binder.linear(spec.o)) {
  if (spec.q_norm) q_norm_ = binder.norm(*spec.q_norm);
  if (spec.k_norm) k_norm_ = binder.norm(*spec.k_norm);
}

bool AttentionLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (!project(context, x)) return false;
  rotate_and_store(context);
  AttentionPass(spec_, context).run();
  const LinearJob job{&o_, out, o_.rows};
  return context.linear.run({&job, 1}, context.work.attended.data(), context.tokens);
}

bool AttentionLayer::project(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const int64_t tokens = context.tokens;
  work.q.reserve_discarding(static_cast<std::size_t>(tokens * q_.rows));
  work.k.reserve_discarding(static_cast<std::size_t>(tokens * k_.rows));
  work.v.reserve_discarding(static_cast<std::size_t>(tokens * v_.rows));
  const LinearJob jobs[] = {
      {&q_, work.q.data(), q_.rows}, {&k_, work.k.data(), k_.rows}, {&v_, work.v.data(), v_.rows}};
  return context.linear.run(jobs, x, tokens);
}

void AttentionLayer::rotate_and_store(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t dim = spec_.head_dim;
  const int64_t kv_heads = spec_.n_kv_heads;
  const auto norm_and_rope = [&](float* row, int64_t heads, const std::vector<float>& norm,
                                 const std::optional<NormSpec>& norm_spec,
                                 const SequenceSlice& sequence, int64_t t) {
    const auto& kernels = context.kernels;
    const int count = static_cast<int>(heads);
    const float offset = norm_spec && norm_spec->kind == NormKind::kRmsOnePlus ? 1.0f : 0.0f;
    const int64_t normed = norm_spec ? norm_spec->size : dim;
    const bool across = normed != dim;
    if (norm_spec && (across || spec_.rope < 0)) {
      kernels.rms_norm(row, normed, norm.data(), offset, norm_spec->eps, heads * dim / normed,
                       normed, row, normed);
    }
    if (spec_.rope < 0) return;
    const RopeTable& rope = sequence.ropes[static_cast<std::size_t>(spec_.rope)];
    const int64_t at = sequence.position - sequence.rope_begin + t;
    const int half = static_cast<int>(rope.half);
    if (!norm_spec || across) {
      kernels.rope(row, dim, count, half, rope.interleaved, rope.cos_row(at), rope.sin_row(at));
    } else {
      kernels.norm_rope(row, dim, count, static_cast<int>(dim), norm.data(), offset, norm_spec->eps,
                        half, rope.interleaved, rope.cos_row(at), rope.sin_row(at));
    }
  };
  const auto store = [&](const SequenceSlice& sequence, int64_t begin, int64_t end) {
    const auto rotate = [&](float* rows, int64_t heads) {
      context.kernels.hadamard(rows + begin * heads * dim, dim, (end - begin) * heads,
                               static_cast<int>(dim));
    };
    float* q = work.q.data() + sequence.row * spec_.n_heads * dim;
    float* k = work.k.data() + sequence.row * kv_heads * dim;
    float* v = work.v.data() + sequence.row * kv_heads * dim;
    for (int64_t t = begin; t < end; ++t) {
      norm_and_rope(q + t * spec_.n_heads * dim, spec_.n_heads, q_norm_, spec_.q_norm, sequence, t);
      norm_and_rope(k + t * kv_heads * dim, kv_heads, k_norm_, spec_.k_norm, sequence, t);
    }
    const KvType type = sequence.cache->type();
    if (type == KvType::kQ4) {
      // Products of two rotated vectors are those of the vectors; finish() rotates the result back.
      rotate(q, spec_.n_heads);
      rotate(k, kv_heads);
      rotate(v, kv_heads);
    }
    for (int64_t h = 0; h < kv_heads; ++h) {
      const int64_t from = (begin * kv_heads + h) * dim;
      const int64_t stride = kv_heads * dim;
      context.kernels.kv_store(k + from, stride, end - begin, static_cast<int>(dim), type,
                               sequence.cache->key_blocks(context.layer, h),
                               sequence.position + begin);
      context.kernels.kv_store(v + from, stride, end - begin, static_cast<int>(dim), type,
                               sequence.cache->value_blocks(context.layer, h),
                               sequence.position + begin);
    }
  };
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (const SequenceSlice& sequence : context.sequences) {
      const int64_t from = std::max(begin, sequence.row) - sequence.row;
      const int64_t to = std::min(end, sequence.row + sequence.tokens) - sequence.row;
      if (from < to) store(sequence, from, to);
    }
  });
}

}  // namespace jang
