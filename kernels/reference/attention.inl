// Attention: for each query, the softmax state moved on by all keys of the slice that it sees, at
// once.

double score_of(const AttentionTask& task, int query, int64_t key) {
  const float* q = task.queries + query * task.query_stride;
  const uint8_t* block = task.kv.key_blocks[key / kKvBlock];
  double dot = 0.0;
  for (int d = 0; d < task.kv.key_dim; ++d)
    dot += q[d] * kv_at(block, task.kv.type, task.kv.key_dim, key % kKvBlock, d);
  const double score = dot * task.scale;
  return task.softcap > 0.0f ? task.softcap * std::tanh(score / task.softcap) : score;
}

bool sees(const AttentionTask& task, int query, int64_t key) {
  const int64_t position = task.positions[query];
  if (task.causal && key > position) return false;
  return task.window <= 0 || (key > position - task.window && key < position + task.window);
}

void attend(const AttentionTask& task) {
  const int64_t dim = task.kv.value_dim;
  for (int query = 0; query < task.n_queries; ++query) {
    double top = task.state.max[query];
    bool unordered = false;
    for (int64_t key = task.key_begin; key < task.key_end; ++key) {
      if (!sees(task, query, key)) continue;
      const double score = score_of(task, query, key);
      top = std::fmax(top, score);
      unordered = unordered || std::isnan(score);
    }
    if (std::isinf(top) && top < 0.0) {
      // No key, or only scores of -inf, which weigh nothing; a NaN must not vanish.
      if (unordered) task.state.sum[query] = std::nanf("");
      continue;
    }
    const auto new_max = static_cast<float>(top);
    const double shrink = task.state.max[query] == new_max
                              ? 1.0
                              : std::exp(static_cast<double>(task.state.max[query]) - new_max);
    double sum = task.state.sum[query] * shrink;
    for (int64_t key = task.key_begin; key < task.key_end; ++key) {
      if (sees(task, query, key)) sum += std::exp(score_of(task, query, key) - new_max);
    }
    // A few channels at a time, so that a score is not computed again for each.
    constexpr int64_t kChannels = 256;
    float* acc = task.state.acc + query * kv_padded(task.kv.type, dim);
    for (int64_t first = 0; first < dim; first += kChannels) {
      const int64_t channels = dim - first < kChannels ? dim - first : kChannels;
      double total[kChannels] = {};
      for (int64_t key = task.key_begin; key < task.key_end; ++key) {
        if (!sees(task, query, key)) continue;
        const double weight = std::exp(score_of(task, query, key) - new_max);
        const uint8_t* block = task.kv.value_blocks[key / kKvBlock];
        for (int64_t d = 0; d < channels; ++d)
          total[d] += weight * kv_at(block, task.kv.type, dim, key % kKvBlock, first + d);
      }
      for (int64_t d = 0; d < channels; ++d)
        acc[first + d] = static_cast<float>(acc[first + d] * shrink + total[d]);
    }
    task.state.max[query] = new_max;
    task.state.sum[query] = static_cast<float>(sum);
  }
}

void merge_attention(const SoftmaxState& state, const SoftmaxState& next, int n_queries,
                     int padded) {
  for (int q = 0; q < n_queries; ++q) {
    if (next.sum[q] == 0.0f) continue;
    const int64_t begin = static_cast<int64_t>(q) * padded;
    if (state.sum[q] == 0.0f) {
      state.max[q] = next.max[q];
      state.sum[q] = next.sum[q];
      for (int64_t d = begin; d < begin + padded; ++d) state.acc[d] = next.acc[d];
      continue;
    }
    const double peak = std::fmax(state.max[q], next.max[q]);
    const double mine = std::exp(state.max[q] - peak);
    const double theirs = std::exp(next.max[q] - peak);
    state.max[q] = static_cast<float>(peak);
    state.sum[q] = static_cast<float>(state.sum[q] * mine + next.sum[q] * theirs);
    for (int64_t d = begin; d < begin + padded; ++d)
      state.acc[d] = static_cast<float>(state.acc[d] * mine + next.acc[d] * theirs);
  }
}
