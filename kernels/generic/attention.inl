// Attention with an online softmax: one block of kKvBlock keys at a time, no score matrix in
// memory, the cache read in the type it has.
//
// A block is taken twice: scores and softmax of all queries, then the values. Queries go in tiles
// of up to kQueryTile (attention_tiles.inl), so a query's state is the same whatever queries stand
// beside it, and a masked key changes no bit. Where many queries share a block, its visible rows
// are converted to f32 scratch once; the numbers are those of converting in registers. Blocks that
// no query sees are passed over.
//
//   operations per key and query: key_dim + value_dim multiply-adds, one exp; a conversion per
//   register of a row and tile, or per block. Bound at many queries: multiply-adds; at the few of
//   one position: memory, which the next block's lines are asked from ahead of their use.
#include "kernels/generic/attention_tiles.inl"

// Queries from which on a block is unpacked: at once where no instruction converts halves.
constexpr int unpack_from(KvType type) {
  if (type == KvType::kF32) return INT32_MAX;
#if !defined(__F16C__)
  if (type == KvType::kF16) return 2;
#endif
  return 2 * kQueryTile + 1;
}

// What `query` sees of keys [begin, end) of the block that starts at position `block`.
inline KeyRange visible_keys(const AttentionTask& task, int query, int64_t block, int64_t begin,
                             int64_t end) {
  const int64_t position = task.positions[query];
  if (task.causal && position + 1 < end) end = position + 1;
  if (task.window > 0) {
    if (position - task.window + 1 > begin) begin = position - task.window + 1;
    if (position + task.window < end) end = position + task.window;
  }
  if (begin >= end) return {};
  return {static_cast<int>(begin - block), static_cast<int>(end - block)};
}

// One block and all queries of a task.
struct BlockTask {
  const AttentionTask& task;
  int64_t block;       // position of its first key
  int64_t begin, end;  // keys of the slice in it
  const uint8_t* key_scales;
  const uint8_t* value_scales;
  NextBlock next_keys, this_values;
  float* weights;  // [n_queries][kKvBlock]
  float* shrink;   // [n_queries]

  KeyRange visible(int query) const { return visible_keys(task, query, block, begin, end); }
};

template <int kQueries, typename Rows>
void score_tile(const BlockTask& b, int first, const Rows& keys) {
  KeyRange range[kQueries], all{kKvBlock, 0};
  for (int q = 0; q < kQueries; ++q) {
    range[q] = b.visible(first + q);
    if (range[q].empty()) continue;
    if (range[q].begin < all.begin) all.begin = range[q].begin;
    if (range[q].end > all.end) all.end = range[q].end;
  }
  float* scores = b.weights + static_cast<int64_t>(first) * kKvBlock;
  if (all.empty()) {
    for (int q = 0; q < kQueries; ++q) b.shrink[first + q] = -1.0f;
    return;
  }
  const AttentionTask& task = b.task;
  score_keys<kQueries>(keys, kv_padded(task.kv.type, task.kv.key_dim),
                       task.queries + first * task.query_stride, task.query_stride, all,
                       first == 0 ? b.this_values : NextBlock{}, scores);
  float top[kQueries];
  finish_scores<kQueries>(task, range, b.key_scales, scores, top);
  const SoftmaxState state{task.state.max + first, task.state.sum + first, nullptr};
  update_softmax<kQueries>(state, range, b.value_scales, top, scores, b.shrink + first);
}

// Keys that all queries of the tile see are added together, those at its edges query by query; for
// each query in ascending order.
template <int kQueries, typename Rows>
void value_tile(const BlockTask& b, int first, const Rows& values) {
  const int64_t padded = kv_padded(b.task.kv.type, b.task.kv.value_dim);
  const float* weights = b.weights + static_cast<int64_t>(first) * kKvBlock;
  float* shrink = b.shrink + first;
  float* acc = b.task.state.acc + first * padded;
  const NextBlock next = first == 0 ? b.next_keys : NextBlock{};
  KeyRange range[kQueries], common{0, kKvBlock};
  for (int q = 0; q < kQueries; ++q) {
    range[q] = b.visible(first + q);
    // A NaN shrinks to NaN.
    if (shrink[q] < 0.0f) range[q] = {};
    if (range[q].begin > common.begin) common.begin = range[q].begin;
    if (range[q].end < common.end) common.end = range[q].end;
  }
  const auto add_one = [&](int q, KeyRange part) {
    if (part.empty()) return;
    add_values<1>(values, padded, part, next, weights + q * kKvBlock, shrink + q, acc + q * padded);
    shrink[q] = 1.0f;
  };
  if (common.empty()) {
    for (int q = 0; q < kQueries; ++q) add_one(q, range[q]);
    return;
  }
  for (int q = 0; q < kQueries; ++q) add_one(q, {range[q].begin, common.begin});
  add_values<kQueries>(values, padded, common, next, weights, shrink, acc);
  for (int q = 0; q < kQueries; ++q) {
    shrink[q] = 1.0f;
    add_one(q, {common.end, range[q].end});
  }
}

// f(Index<size>{}, first) for tiles that cover all queries.
template <typename F>
void for_tiles(int n_queries, F&& f) {
  int q = 0;
  for (; q + kQueryTile <= n_queries; q += kQueryTile) f(Index<kQueryTile>{}, q);
  switch (n_queries - q) {
    case 3:
      return f(Index<3>{}, q);
    case 2:
      return f(Index<2>{}, q);
    case 1:
      return f(Index<1>{}, q);
    default:
      return;
  }
}

// Rows [range) of a block as floats, at their own places in `out`.
template <typename Rows>
void unpack_rows(const Rows& rows, KeyRange range, int64_t padded, float* out) {
  for (int k = range.begin; k < range.end; ++k) {
    for (int64_t d = 0; d < padded; d += Rows::kStep) {
      for_registers<Rows::kStep>(
          rows, k, d, [&](auto i, vf v) __attribute__((always_inline)) {
            store(out + k * padded + d + i.value * kLanes, v);
          });
    }
  }
}

template <KvType kType>
void attend_as(const AttentionTask& task) {
  const int n = task.n_queries;
  const int64_t key_padded = kv_padded(kType, task.kv.key_dim);
  const int64_t value_padded = kv_padded(kType, task.kv.value_dim);
  const int64_t rounded = (n + 15) / 16 * 16;
  float* const shrink = task.scratch + rounded * kKvBlock;
  float* const unpacked = shrink + rounded;
  for (int64_t index = task.key_begin / kKvBlock; index * kKvBlock < task.key_end; ++index) {
    const int64_t begin = index * kKvBlock;
    const int64_t end = begin + kKvBlock < task.key_end ? begin + kKvBlock : task.key_end;
    const KvRows<kType> keys(task.kv.key_blocks[index], task.kv.key_dim);
    const KvRows<kType> values(task.kv.value_blocks[index], task.kv.value_dim);
    const bool last = begin + kKvBlock >= task.kv.length;
    const NextBlock next_keys{last ? nullptr : task.kv.key_blocks[index + 1],
                              kv_block_bytes(kType, task.kv.key_dim) / kKvBlock};
    const NextBlock this_values{task.kv.value_blocks[index],
                                kv_block_bytes(kType, task.kv.value_dim) / kKvBlock};
    const BlockTask b{task,      begin,       begin,        end,   keys.scales(), values.scales(),
                      next_keys, this_values, task.scratch, shrink};
    KeyRange all{kKvBlock, 0};
    for (int q = 0; q < n; ++q) {
      const KeyRange range = b.visible(q);
      if (range.empty()) continue;
      if (range.begin < all.begin) all.begin = range.begin;
      if (range.end > all.end) all.end = range.end;
    }
    if (all.empty()) continue;
    const auto score = [&](const auto& rows) {
      for_tiles(n, [&](auto size, int first) { score_tile<size.value>(b, first, rows); });
    };
    const auto add = [&](const auto& rows) {
      for_tiles(n, [&](auto size, int first) { value_tile<size.value>(b, first, rows); });
    };
    if (n < unpack_from(kType)) {
      score(keys);
      add(values);
    } else {
      unpack_rows(keys, all, key_padded, unpacked);
      score(UnpackedRows{unpacked, key_padded});
      unpack_rows(values, all, value_padded, unpacked);
      add(UnpackedRows{unpacked, value_padded});
    }
  }
}

void attend(const AttentionTask& task) {
  switch (task.kv.type) {
    case KvType::kF32:
      return attend_as<KvType::kF32>(task);
    case KvType::kF16:
      return attend_as<KvType::kF16>(task);
    case KvType::kBF16:
      return attend_as<KvType::kBF16>(task);
    case KvType::kQ8:
      return attend_as<KvType::kQ8>(task);
    case KvType::kQ4:
      return attend_as<KvType::kQ4>(task);
  }
}

void merge_attention(const SoftmaxState& state, const SoftmaxState& next, int n_queries,
                     int padded) {
  for (int q = 0; q < n_queries; ++q) {
    if (next.sum[q] == 0.0f) continue;
    const float* theirs = next.acc + static_cast<int64_t>(q) * padded;
    float* acc = state.acc + static_cast<int64_t>(q) * padded;
    if (state.sum[q] == 0.0f) {
      state.max[q] = next.max[q];
      state.sum[q] = next.sum[q];
      for (int d = 0; d < padded; d += kLanes) store(acc + d, load(theirs + d));
      continue;
    }
    const float peak = state.max[q] < next.max[q] ? next.max[q] : state.max[q];
    // A state that only saw scores of NaN still has -inf, and a sum of NaN that goes on.
    const float mine = exp(splat(state.max[q] - peak))[0];
    const float other = exp(splat(next.max[q] - peak))[0];
    state.max[q] = peak;
    state.sum[q] = state.sum[q] * mine + next.sum[q] * other;
    for (int d = 0; d < padded; d += kLanes)
      store(acc + d, fma(load(theirs + d), splat(other), load(acc + d) * mine));
  }
}
