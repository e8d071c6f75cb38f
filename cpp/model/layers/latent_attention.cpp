#include "model/layers/latent_attention.h"

#include <algorithm>
#include <vector>

#include "model/layers/attention_pass.h"

namespace jang {
namespace {

AttentionSpec absorbed_form(const LatentAttentionSpec& spec) {
  AttentionSpec form;
  form.n_heads = spec.heads;
  form.n_kv_heads = 1;
  form.head_dim = spec.key_dim();
  form.scale = spec.scale;
  form.rope = -1;  // keys and queries come rotated
  return form;
}

/// visit(sequence, its first token, the token behind its last) for what [begin, end) of the pass's
/// rows hold of each sequence.
template <typename Visit>
void for_each_part(const LayerContext& context, int64_t begin, int64_t end, Visit&& visit) {
  for (const SequenceSlice& sequence : context.sequences) {
    const int64_t from = std::max(begin, sequence.row) - sequence.row;
    const int64_t to = std::min(end, sequence.row + sequence.tokens) - sequence.row;
    if (from < to) visit(sequence, from, to);
  }
}

}  // namespace

LatentAttentionLayer::LatentAttentionLayer(const LatentAttentionSpec& spec, WeightBinder& binder)
    : spec_(spec),
      absorbed_(absorbed_form(spec)),
      q_(binder.linear(spec.q)),
      kv_a_(binder.linear(spec.kv_a)),
      o_(binder.linear(spec.o)),
      q_norm_(make_norm(spec.q_norm, binder)),
      kv_norm_(spec.kv_norm, binder) {
  if (spec.q_a) q_a_ = binder.linear(*spec.q_a);
  if (!spec.kv_b) {
    embed_q_ = HeadMatrices(spec.embed_q, binder);
    unembed_out_ = HeadMatrices(spec.unembed_out, binder);
    return;
  }
  kv_b_ = binder.linear(*spec.kv_b);
  std::vector<LinearWeight> keys, values;
  for (int64_t h = 0; h < spec.heads; ++h) {
    const int64_t row = h * (spec.plain_dim + spec.value_dim);
    keys.push_back(rows_of(*kv_b_, row, spec.plain_dim));
    values.push_back(rows_of(*kv_b_, row + spec.plain_dim, spec.value_dim));
  }
  embed_q_ = HeadMatrices({{}, spec.heads, spec.rank, spec.plain_dim}, std::move(keys), true);
  unembed_out_ =
      HeadMatrices({{}, spec.heads, spec.value_dim, spec.rank}, std::move(values), false);
}

bool LatentAttentionLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (!project(context, x)) return false;
  prepare(context);
  if (!show_latents(context)) return false;
  store_keys(context);
  if (!attend(context)) return false;
  const LinearJob job{&o_, out, o_.rows};
  return context.linear.run({&job, 1}, context.work.v.data(), context.tokens);
}

// work.gated_q = queries by head, plain and rotary channels; work.k = latents and rotary keys.
bool LatentAttentionLayer::project(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const auto room = [&](AlignedBuffer<float>& buffer, int64_t columns) {
    buffer.reserve_discarding(static_cast<std::size_t>(context.tokens * columns));
    return buffer.data();
  };
  float* const queries = room(work.gated_q, q_.rows);
  float* const keys = room(work.k, kv_a_.rows);
  const bool low_rank = q_a_.has_value();
  const LinearWeight& first = low_rank ? *q_a_ : q_;
  float* const first_out = low_rank ? room(work.latent, first.rows) : queries;
  const LinearJob jobs[] = {{&first, first_out, first.rows}, {&kv_a_, keys, kv_a_.rows}};
  if (!context.linear.run(jobs, x, context.tokens)) return false;
  if (!low_rank) return true;
  q_norm_->forward(context.kernels, context.pool, first_out, context.tokens, first_out);
  const LinearJob job{&q_, queries, q_.rows};
  return context.linear.run({&job, 1}, first_out, context.tokens);
}

// work.head_rows = plain channels of the queries, [heads][tokens]; work.q = [tokens][heads], with
// their rotated channels at the end.
void LatentAttentionLayer::prepare(LayerContext& context) const {
  Workspace& work = context.work;
  const auto rows = static_cast<std::size_t>(context.tokens * spec_.heads);
  const auto widest = static_cast<std::size_t>(std::max(spec_.plain_dim, spec_.rank));
  work.head_rows.reserve_discarding(rows * widest);
  work.q.reserve_discarding(rows * static_cast<std::size_t>(spec_.key_dim()));
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for_each_part(context, begin, end,
                  [&](const SequenceSlice& sequence, int64_t from, int64_t to) {
                    for (int64_t t = from; t < to; ++t) prepare_token(context, sequence, t);
                  });
  });
}

void LatentAttentionLayer::prepare_token(LayerContext& context, const SequenceSlice& sequence,
                                         int64_t t) const {
  const kernels::KernelTable& kernels = context.kernels;
  Workspace& work = context.work;
  const int64_t row = sequence.row + t;
  const RopeTable& rope = sequence.ropes[static_cast<std::size_t>(spec_.rope)];
  const int64_t at = sequence.position - sequence.rope_begin + t;
  const auto rotate = [&](float* x, int64_t stride, int64_t heads) {
    kernels.rope(x, stride, static_cast<int>(heads), static_cast<int>(rope.half), rope.interleaved,
                 rope.cos_row(at), rope.sin_row(at));
  };
  float* const key = work.k.data() + row * spec_.key_dim();
  kernels.rms_norm(key, spec_.key_dim(), kv_norm_.weight.data(), kv_norm_.offset(),
                   kv_norm_.spec.eps, 1, spec_.rank, key, spec_.key_dim());
  rotate(key + spec_.rank, spec_.rotary_dim, 1);
  float* const query = work.gated_q.data() + row * spec_.heads * spec_.query_dim();
  rotate(query + spec_.plain_dim, spec_.query_dim(), spec_.heads);
  for (int64_t h = 0; h < spec_.heads; ++h) {
    const float* const from = query + h * spec_.query_dim();
    std::copy_n(from, spec_.plain_dim,
                work.head_rows.data() + (h * context.tokens + row) * spec_.plain_dim);
    std::copy_n(from + spec_.plain_dim, spec_.rotary_dim,
                work.q.data() + (row * spec_.heads + h) * spec_.key_dim() + spec_.rank);
  }
}

// The matrix that holds both halves has the latents for its input.
bool LatentAttentionLayer::show_latents(LayerContext& context) const {
  if (!kv_b_ || !context.linear.observed()) return true;
  Workspace& work = context.work;
  work.latent.reserve_discarding(static_cast<std::size_t>(context.tokens * spec_.rank));
  for (int64_t t = 0; t < context.tokens; ++t) {
    std::copy_n(work.k.data() + t * spec_.key_dim(), spec_.rank,
                work.latent.data() + t * spec_.rank);
  }
  const LinearJob job{&*kv_b_, nullptr, kv_b_->rows};
  return context.linear.show({&job, 1}, work.latent.data(), context.tokens);
}

void LatentAttentionLayer::store_keys(LayerContext& context) const {
  const int64_t dim = spec_.key_dim();
  const auto store = [&](const SequenceSlice& sequence, int64_t begin, int64_t end) {
    float* const keys = context.work.k.data() + (sequence.row + begin) * dim;
    const KvType type = sequence.cache->type();
    if (type == KvType::kQ4)
      context.kernels.hadamard(keys, dim, end - begin, static_cast<int>(dim));
    context.kernels.kv_store(keys, dim, end - begin, static_cast<int>(dim), type,
                             sequence.cache->key_blocks(context.layer, 0),
                             sequence.position + begin);
  };
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for_each_part(context, begin, end, store);
  });
}

// work.v = values of all heads, [tokens][heads][value_dim].
bool LatentAttentionLayer::attend(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t dim = spec_.key_dim(), heads = spec_.heads, tokens = context.tokens;
  if (!embed_q_.run(context, work.head_rows.data(), work.q.data(), dim, heads * dim)) return false;
  context.pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for_each_part(context, begin, end,
                  [&](const SequenceSlice& sequence, int64_t from, int64_t to) {
                    // As the keys of such a cache are; the pass rotates its results back.
                    if (sequence.cache->type() != KvType::kQ4) return;
                    context.kernels.hadamard(work.q.data() + (sequence.row + from) * heads * dim,
                                             dim, (to - from) * heads, static_cast<int>(dim));
                  });
  });
  AttentionPass(absorbed_, context).run();
  context.pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        std::copy_n(work.attended.data() + (t * heads + h) * dim, spec_.rank,
                    work.head_rows.data() + (h * tokens + t) * spec_.rank);
      }
    }
  });
  work.v.reserve_discarding(static_cast<std::size_t>(tokens * heads * spec_.value_dim));
  return unembed_out_.run(context, work.head_rows.data(), work.v.data(), spec_.value_dim,
                          heads * spec_.value_dim);
}

}  // namespace jang
