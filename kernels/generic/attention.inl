// Attention with an online softmax: one block of kKvBlock keys at a time, no score matrix in
// memory.
//
// Queries are taken in tiles of kQueryTile; a tile's scores are computed 4 keys at a time, each as
// one chain over key_dim in registers of kLanes, and the values are added key by key in ascending
// order. So a query's state is the same whatever queries stand beside it, and a masked key changes
// no bit.
//
//   operations per key and query: key_dim + value_dim multiply-adds, one exp; a tile reads each key
//   and value once. Bound at many queries: multiply-adds; at one position: memory, or the keys'
//   sums of lanes.

constexpr int kQueryTile = 4;
#if JANG_VEC_BYTES == 64 || defined(__aarch64__)
constexpr int kValueRegisters = 4;  // times kQueryTile sums
#else
constexpr int kValueRegisters = 2;
#endif

// Keys [begin, end) of a block, counted within it.
struct KeyRange {
  int begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

// scores[q * kKvBlock + k] = q.k for k in keys.
template <int kQueries>
void score_keys(const AttentionTask& task, int first_query, const float* keys, KeyRange range,
                float* scores) {
  const int dim = task.kv.key_dim;
  const int full = dim / kLanes * kLanes;
  const float* queries = task.queries + first_query * task.query_stride;
  for (int k = range.begin; k < range.end; k += 4) {
    // Beyond the last key the tile repeats it, and drops the result.
    const float* row[4];
    for (int j = 0; j < 4; ++j) {
      const int key = k + j < range.end ? k + j : range.end - 1;
      row[j] = keys + static_cast<int64_t>(key) * dim;
    }
    vf sum[kQueries][4] = {};
    const auto add_products = [&](int d, auto channels) __attribute__((always_inline)) {
      vf key[4];
      unrolled<4>([&](auto j) __attribute__((always_inline)) {
        key[j.value] = channels(row[j.value] + d);
      });
      unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
        const vf query = channels(queries + q.value * task.query_stride + d);
        unrolled<4>([&](auto j) __attribute__((always_inline)) {
          sum[q.value][j.value] = fma(query, key[j.value], sum[q.value][j.value]);
        });
      });
    };
    for (int d = 0; d < full; d += kLanes) add_products(d, [](const float* p) { return load(p); });
    if (full < dim)
      add_products(full, [n = dim - full](const float* p) { return load_partial(p, n); });
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      float four[4];
      sum_tree4(sum[q.value][0], sum[q.value][1], sum[q.value][2], sum[q.value][3], four);
      for (int j = 0; j < 4 && k + j < range.end; ++j) scores[q.value * kKvBlock + k + j] = four[j];
    });
  }
}

// 1 - 2 / (e^2x + 1): absolute error about 1e-7, which is what a capped score needs.
inline vf tanh(vf x) { return 1.0f - 2.0f / (exp(x + x) + 1.0f); }

// Turns scores into weights e^(score - max) and moves max and sum of one query on. Returns the
// factor by which its accumulator shrinks; a negative one says that there is nothing to add.
inline float update_softmax(const AttentionTask& task, int query, KeyRange range, float* scores) {
  constexpr float kMinusInfinity = -__builtin_inff();
  for (int k = 0; k < kKvBlock; k += kLanes) {
    vf s = load(scores + k) * task.scale;
    if (task.softcap > 0.0f) s = tanh(s / task.softcap) * task.softcap;
    store(scores + k, s);
  }
  for (int k = 0; k < range.begin; ++k) scores[k] = kMinusInfinity;
  for (int k = range.end; k < kKvBlock; ++k) scores[k] = kMinusInfinity;

  vf top = load(scores);
  top = max(splat(kMinusInfinity), top);
  for (int k = kLanes; k < kKvBlock; k += kLanes) top = max(top, load(scores + k));
  const float old_max = task.max[query];
  const float block_max = max_lanes(top);
  const float new_max = old_max < block_max ? block_max : old_max;
  if (new_max == kMinusInfinity) {
    // Every visible score is -inf, which adds nothing, or NaN, which must not vanish.
    for (int k = range.begin; k < range.end; ++k) {
      if (scores[k] != scores[k]) task.sum[query] = scores[k];
    }
    return -1.0f;
  }
  vf sum{};
  for (int k = 0; k < kKvBlock; k += kLanes) {
    const vf weight = exp(load(scores + k) - new_max);
    store(scores + k, weight);
    sum += weight;
  }
  const float shrink = new_max == old_max ? 1.0f : exp(splat(old_max - new_max))[0];
  task.max[query] = new_max;
  task.sum[query] = task.sum[query] * shrink + sum_tree(sum);
  return shrink;
}

// acc[q] = acc[q] * shrink[q] + sum_k weights[q][k] * values[k] for kVectors registers of channels.
template <int kQueries, int kVectors>
[[gnu::always_inline]] inline void add_value_columns(const float* values, int64_t dim,
                                                     KeyRange range, const float* weights,
                                                     const float* shrink, float* acc) {
  vf sum[kQueries][kVectors];
  unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      sum[q.value][i.value] = load(acc + q.value * dim + i.value * kLanes) * shrink[q.value];
    });
  });
  for (int k = range.begin; k < range.end; ++k) {
    const float* row = values + k * dim;
    vf value[kVectors];
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      value[i.value] = load(row + i.value * kLanes);
    });
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      const vf weight = splat(weights[q.value * kKvBlock + k]);
      unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
        sum[q.value][i.value] = fma(weight, value[i.value], sum[q.value][i.value]);
      });
    });
  }
  unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      store(acc + q.value * dim + i.value * kLanes, sum[q.value][i.value]);
    });
  });
}

template <int kQueries>
void add_values(const float* values, int64_t dim, KeyRange range, const float* weights,
                const float* shrink, float* acc) {
  constexpr int kVectors = kValueRegisters * kQueryTile / kQueries;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) {
    add_value_columns<kQueries, kVectors>(values + d, dim, range, weights, shrink, acc + d);
  }
  for (; d + kLanes <= dim; d += kLanes) {
    add_value_columns<kQueries, 1>(values + d, dim, range, weights, shrink, acc + d);
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int64_t i = d; i < dim; ++i) {
      float sum = acc[q * dim + i] * shrink[q];
      for (int k = range.begin; k < range.end; ++k)
        sum += weights[q * kKvBlock + k] * values[k * dim + i];
      acc[q * dim + i] = sum;
    }
  }
}

// What `query` sees of keys [begin, end) of the block that starts at position `block`.
inline KeyRange visible_keys(const AttentionTask& task, int query, int64_t block, int64_t begin,
                             int64_t end) {
  const int64_t position = task.positions[query];
  if (position + 1 < end) end = position + 1;
  if (task.window > 0 && position - task.window + 1 > begin) begin = position - task.window + 1;
  if (begin >= end) return {};
  return {static_cast<int>(begin - block), static_cast<int>(end - block)};
}

template <int kQueries>
void attend_tile(const AttentionTask& task, int first, int64_t index, int64_t begin, int64_t end) {
  KeyRange range[kQueries], all{kKvBlock, 0};
  bool same = true;
  for (int q = 0; q < kQueries; ++q) {
    range[q] = visible_keys(task, first + q, index * kKvBlock, begin, end);
    same = same && range[q].begin == range[0].begin && range[q].end == range[0].end;
    if (range[q].empty()) continue;
    if (range[q].begin < all.begin) all.begin = range[q].begin;
    if (range[q].end > all.end) all.end = range[q].end;
  }
  if (all.empty()) return;

  float* scores = task.scratch + static_cast<int64_t>(first) * kKvBlock;
  for (int i = 0; i < kQueries * kKvBlock; ++i) scores[i] = 0.0f;
  score_keys<kQueries>(task, first, task.kv.key_blocks[index], all, scores);
  float shrink[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    shrink[q] =
        range[q].empty() ? -1.0f : update_softmax(task, first + q, range[q], scores + q * kKvBlock);
    same = same && shrink[q] >= 0.0f;
  }
  const int64_t dim = task.kv.value_dim;
  const float* values = task.kv.value_blocks[index];
  float* acc = task.acc + first * dim;
  if (same) return add_values<kQueries>(values, dim, range[0], scores, shrink, acc);
  for (int q = 0; q < kQueries; ++q) {
    // A NaN shrinks to NaN.
    if (shrink[q] < 0.0f) continue;
    add_values<1>(values, dim, range[q], scores + q * kKvBlock, shrink + q, acc + q * dim);
  }
}

void attend(const AttentionTask& task) {
  for (int64_t index = task.key_begin / kKvBlock; index * kKvBlock < task.key_end; ++index) {
    const int64_t begin = index * kKvBlock;
    const int64_t end = begin + kKvBlock < task.key_end ? begin + kKvBlock : task.key_end;
    int q = 0;
    for (; q + kQueryTile <= task.n_queries; q += kQueryTile)
      attend_tile<kQueryTile>(task, q, index, begin, end);
    for (; q < task.n_queries; ++q) attend_tile<1>(task, q, index, begin, end);
  }
}
