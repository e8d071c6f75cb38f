// Order of sums: keys are taken in chunks of kChunk at absolute multiples of kChunk, each with a
// softmax state of its own, and the states are merged in ascending order. Decode hands chunks to
// threads, prefill walks them query tile by query tile; both see the same chunks and merges, so
// neither the thread count nor the length of a call can change a bit of the result.
#include "model/layers/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace jang {
namespace {

constexpr int64_t kChunk = 4 * kernels::kKvBlock;
constexpr int64_t kTileRows = 32;  // queries of one unit of prefill

/// The online softmax of some query rows: maximum, sum of exponentials, weighted values.
struct SoftmaxState {
  float* max;
  float* sum;
  float* acc;  // [rows][dim]

  static int64_t floats(int64_t rows, int64_t dim) { return rows * (dim + 2); }
  SoftmaxState(float* storage, int64_t rows)
      : max(storage), sum(storage + rows), acc(storage + 2 * rows) {}

  void clear(int64_t rows, int64_t dim) {
    std::fill_n(max, rows, -INFINITY);
    std::fill_n(sum, rows, 0.0f);
    std::fill_n(acc, rows * dim, 0.0f);
  }

  /// Appends the keys of `next`, which come after those seen so far.
  void merge(const SoftmaxState& next, int64_t rows, int64_t dim) {
    for (int64_t r = 0; r < rows; ++r) {
      if (next.sum[r] == 0.0f) continue;  // all masked
      const float peak = std::max(max[r], next.max[r]);
      const float mine = sum[r] == 0.0f ? 0.0f : std::exp(max[r] - peak);
      const float theirs = std::exp(next.max[r] - peak);
      max[r] = peak;
      sum[r] = sum[r] * mine + next.sum[r] * theirs;
      for (int64_t d = 0; d < dim; ++d) {
        acc[r * dim + d] = acc[r * dim + d] * mine + next.acc[r * dim + d] * theirs;
      }
    }
  }
};

}  // namespace

AttentionLayer::AttentionLayer(const AttentionSpec& spec, WeightBinder& binder)
    : spec_(spec),
      q_(binder.linear(spec.q)),
      k_(binder.linear(spec.k)),
      v_(binder.linear(spec.v)),
      o_(binder.linear(spec.o)) {
  if (spec.q_norm) q_norm_ = binder.norm(*spec.q_norm);
  if (spec.k_norm) k_norm_ = binder.norm(*spec.k_norm);
}

void AttentionLayer::forward(LayerContext& context, const float* x, float* out) const {
  project(context, x);
  store_keys_values(context);
  attend(context);
  const LinearJob job{&o_, out, o_.rows};
  context.linear.run({&job, 1}, context.work.attended.data(), context.tokens);
}

void AttentionLayer::project(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const int64_t tokens = context.tokens;
  const int64_t dim = spec_.head_dim;
  work.q.reserve_discarding(static_cast<std::size_t>(tokens * q_.rows));
  work.k.reserve_discarding(static_cast<std::size_t>(tokens * k_.rows));
  work.v.reserve_discarding(static_cast<std::size_t>(tokens * v_.rows));
  const LinearJob jobs[] = {
      {&q_, work.q.data(), q_.rows}, {&k_, work.k.data(), k_.rows}, {&v_, work.v.data(), v_.rows}};
  context.linear.run(jobs, x, tokens);

  const auto per_head = [&](float* rows, int64_t heads, const std::vector<float>& norm,
                            const std::optional<NormSpec>& norm_spec, int64_t t) {
    float* row = rows + t * heads * dim;
    if (!norm.empty()) {
      const float offset = norm_spec->kind == NormKind::kRmsOnePlus ? 1.0f : 0.0f;
      context.kernels.rms_norm(row, dim, norm.data(), offset, norm_spec->eps, heads, dim, row, dim);
    }
    if (spec_.rope < 0) return;
    const RopeTable& rope = context.ropes[static_cast<std::size_t>(spec_.rope)];
    const int64_t at = context.position - context.rope_begin + t;
    context.kernels.rope(row, dim, static_cast<int>(heads), static_cast<int>(rope.half),
                         rope.interleaved, rope.cos_row(at), rope.sin_row(at));
  };
  context.pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      per_head(work.q.data(), spec_.n_heads, q_norm_, spec_.q_norm, t);
      per_head(work.k.data(), spec_.n_kv_heads, k_norm_, spec_.k_norm, t);
    }
  });
}

void AttentionLayer::store_keys_values(LayerContext& context) const {
  const Workspace& work = context.work;
  const int64_t dim = spec_.head_dim;
  const auto bytes = static_cast<std::size_t>(dim) * sizeof(float);
  for (int64_t t = 0; t < context.tokens; ++t) {
    for (int64_t h = 0; h < spec_.n_kv_heads; ++h) {
      const int64_t from = (t * spec_.n_kv_heads + h) * dim;
      std::memcpy(context.cache.key(context.layer, h, context.position + t), work.k.data() + from,
                  bytes);
      std::memcpy(context.cache.value(context.layer, h, context.position + t), work.v.data() + from,
                  bytes);
    }
  }
}

void AttentionLayer::attend(LayerContext& context) const {
  Workspace& work = context.work;
  const int64_t tokens = context.tokens;
  const int64_t dim = spec_.head_dim;
  const int64_t kv_heads = spec_.n_kv_heads;
  const int64_t group = spec_.n_heads / kv_heads;
  const int64_t head_rows = tokens * group;  // queries of one kv head
  const int64_t length = context.position + tokens;

  work.grouped_q.reserve_discarding(static_cast<std::size_t>(kv_heads * head_rows * dim));
  work.attended.reserve_discarding(static_cast<std::size_t>(tokens * spec_.n_heads * dim));
  work.positions.reserve_discarding(static_cast<std::size_t>(head_rows));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t g = 0; g < group; ++g)
      work.positions[static_cast<std::size_t>(t * group + g)] = context.position + t;
    for (int64_t h = 0; h < kv_heads; ++h) {
      std::memcpy(work.grouped_q.data() + (h * head_rows + t * group) * dim,
                  work.q.data() + (t * spec_.n_heads + h * group) * dim,
                  static_cast<std::size_t>(group * dim) * sizeof(float));
    }
  }

  const auto run_chunk = [&](int64_t head, int64_t row, int64_t rows, int64_t chunk,
                             SoftmaxState state, float* scratch) {
    const kernels::AttentionTask task{
        .queries = work.grouped_q.data() + (head * head_rows + row) * dim,
        .query_stride = dim,
        .positions = work.positions.data() + row,
        .n_queries = static_cast<int>(rows),
        .kv = {context.cache.key_blocks(context.layer, head),
               context.cache.value_blocks(context.layer, head), length, static_cast<int>(dim),
               static_cast<int>(dim)},
        .key_begin = chunk * kChunk,
        .key_end = std::min(length, (chunk + 1) * kChunk),
        .window = spec_.window,
        .scale = spec_.scale,
        .softcap = spec_.softcap,
        .max = state.max,
        .sum = state.sum,
        .acc = state.acc,
        .scratch = scratch};
    state.clear(rows, dim);
    context.kernels.attend(task);
  };
  // Chunks that some of the rows can see; the others would merge as nothing.
  const auto first_chunk = [&](int64_t row) {
    const int64_t position = work.positions[static_cast<std::size_t>(row)];
    return spec_.window > 0 ? std::max<int64_t>(0, position - spec_.window + 1) / kChunk : 0;
  };
  const auto last_chunk = [&](int64_t row) {
    return work.positions[static_cast<std::size_t>(row)] / kChunk;
  };
  const auto finish = [&](int64_t head, int64_t row, int64_t rows, const SoftmaxState& state) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t t = (row + r) / group;
      const int64_t g = (row + r) % group;
      float* out = work.attended.data() + (t * spec_.n_heads + head * group + g) * dim;
      const float scale = 1.0f / state.sum[r];
      for (int64_t d = 0; d < dim; ++d) out[d] = state.acc[r * dim + d] * scale;
    }
  };

  if (tokens == 1) {
    const int64_t first = first_chunk(0);
    const int64_t chunks = last_chunk(0) - first + 1;
    const int64_t state_floats = SoftmaxState::floats(group, dim);
    const int64_t stride = state_floats + group * kernels::kKvBlock;
    work.partial.reserve_discarding(static_cast<std::size_t>(kv_heads * chunks * stride));
    const auto storage = [&](int64_t unit) { return work.partial.data() + unit * stride; };
    context.pool.share(kv_heads * chunks, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t unit = begin; unit < end; ++unit) {
        run_chunk(unit / chunks, 0, group, first + unit % chunks,
                  SoftmaxState(storage(unit), group), storage(unit) + state_floats);
      }
    });
    for (int64_t head = 0; head < kv_heads; ++head) {
      SoftmaxState running(storage(head * chunks), group);
      for (int64_t c = 1; c < chunks; ++c) {
        running.merge(SoftmaxState(storage(head * chunks + c), group), group, dim);
      }
      finish(head, 0, group, running);
    }
    return;
  }

  const int64_t tile = std::max<int64_t>(1, kTileRows / group) * group;  // whole tokens
  const int64_t tiles = (head_rows + tile - 1) / tile;
  const int64_t state_floats = SoftmaxState::floats(tile, dim);
  const int64_t stride = 2 * state_floats + tile * kernels::kKvBlock;
  work.partial.reserve_discarding(static_cast<std::size_t>(context.pool.size() * stride));
  context.pool.share(kv_heads * tiles, 1, [&](int64_t begin, int64_t end, int worker) {
    float* storage = work.partial.data() + worker * stride;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t head = unit / tiles;
      const int64_t row = unit % tiles * tile;
      const int64_t rows = std::min(tile, head_rows - row);
      SoftmaxState running(storage, rows);
      const SoftmaxState next(storage + state_floats, rows);
      const int64_t first = first_chunk(row);
      const int64_t last = last_chunk(row + rows - 1);
      for (int64_t chunk = first; chunk <= last; ++chunk) {
        run_chunk(head, row, rows, chunk, chunk == first ? running : next,
                  storage + 2 * state_floats);
        if (chunk != first) running.merge(next, rows, dim);
      }
      finish(head, row, rows, running);
    }
  });
}

}  // namespace jang
