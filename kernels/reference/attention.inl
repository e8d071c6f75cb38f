// Attention: for each query, the softmax state moved on by all keys of the slice that it sees, at
// once.

double score_of(const AttentionTask& task, int query, int64_t key) {
  const float* q = task.queries + query * task.query_stride;
  const float* k =
      task.kv.key_blocks[key / kKvBlock] + key % kKvBlock * static_cast<int64_t>(task.kv.key_dim);
  double dot = 0.0;
  for (int d = 0; d < task.kv.key_dim; ++d) dot += static_cast<double>(q[d]) * k[d];
  const double score = dot * task.scale;
  return task.softcap > 0.0f ? task.softcap * std::tanh(score / task.softcap) : score;
}

bool sees(const AttentionTask& task, int query, int64_t key) {
  const int64_t position = task.positions[query];
  return key <= position && (task.window <= 0 || key > position - task.window);
}

void attend(const AttentionTask& task) {
  const int64_t dim = task.kv.value_dim;
  for (int query = 0; query < task.n_queries; ++query) {
    double top = task.max[query];
    bool unordered = false;
    for (int64_t key = task.key_begin; key < task.key_end; ++key) {
      if (!sees(task, query, key)) continue;
      const double score = score_of(task, query, key);
      top = std::fmax(top, score);
      unordered = unordered || std::isnan(score);
    }
    if (std::isinf(top) && top < 0.0) {
      // No key, or only scores of -inf, which weigh nothing; a NaN must not vanish.
      if (unordered) task.sum[query] = std::nanf("");
      continue;
    }
    const auto new_max = static_cast<float>(top);
    const double shrink =
        task.max[query] == new_max ? 1.0 : std::exp(static_cast<double>(task.max[query]) - new_max);
    double sum = task.sum[query] * shrink;
    for (int64_t key = task.key_begin; key < task.key_end; ++key) {
      if (sees(task, query, key)) sum += std::exp(score_of(task, query, key) - new_max);
    }
    // A few channels at a time, so that a score is not computed again for each.
    constexpr int64_t kChannels = 256;
    float* acc = task.acc + query * dim;
    for (int64_t first = 0; first < dim; first += kChannels) {
      const int64_t channels = dim - first < kChannels ? dim - first : kChannels;
      double total[kChannels] = {};
      for (int64_t key = task.key_begin; key < task.key_end; ++key) {
        if (!sees(task, query, key)) continue;
        const double weight = std::exp(score_of(task, query, key) - new_max);
        const float* value = task.kv.value_blocks[key / kKvBlock] + key % kKvBlock * dim + first;
        for (int64_t d = 0; d < channels; ++d) total[d] += weight * value[d];
      }
      for (int64_t d = 0; d < channels; ++d)
        acc[first + d] = static_cast<float>(acc[first + d] * shrink + total[d]);
    }
    task.max[query] = new_max;
    task.sum[query] = static_cast<float>(sum);
  }
}
