// Gates, chunks and scans of state space models as their definitions read, sums in double.

void step_gates(const float* x, const float* shift, const float* rate, float low, float high,
                int64_t n, float* step, float* log_decay) {
  for (int64_t i = 0; i < n; ++i) {
    const double sum =
        static_cast<double>(x[i]) + (shift != nullptr ? static_cast<double>(shift[i]) : 0.0);
    double value = std::fmax(sum, 0.0) + std::log1p(std::exp(-std::fabs(sum)));
    if (std::isnan(sum)) value = sum;
    if (value > high) value = high;
    if (value < low) value = low;
    if (rate != nullptr) log_decay[i] = static_cast<float>(rate[i] * value);
    step[i] = static_cast<float>(value);
  }
}

void ssd_chunk(const SsdTask& task) {
  const auto key = [&](int i) {
    return i < task.past ? task.past_k + i * task.past_k_stride
                         : task.k + (i - task.past) * task.qk_stride;
  };
  const int end = task.past + task.tokens;
  const int64_t keys = task.key_dim, values = task.value_dim;
  for (int h = 0; h < task.heads; ++h) {
    const float* state = task.state + h * keys * values;
    const int64_t first = h * values;  // column of the head
    const auto update = [&](int i) {
      return first + (i < task.past ? task.past_u + i * task.past_u_stride
                                    : task.u + (i - task.past) * task.u_stride);
    };
    double decay[kDeltaChunk];
    for (int i = 0; i < end; ++i) {
      decay[i] = (i > 0 ? decay[i - 1] : 0.0) +
                 (i < task.past ? task.past_decay[i * task.past_gate_stride + h]
                                : task.log_decay[(i - task.past) * task.gate_stride + h]);
    }
    for (int t = 0; t < task.tokens; ++t) {
      const int at = task.past + t;
      const float* q = task.q + t * task.qk_stride;
      double among[kDeltaChunk];
      for (int i = 0; i <= at; ++i) {
        double dot = 0.0;
        for (int64_t d = 0; d < keys; ++d) dot += static_cast<double>(key(i)[d]) * q[d];
        among[i] = std::exp(decay[at] - decay[i]) * dot;
      }
      for (int64_t j = 0; j < values; ++j) {
        const double x = task.x[t * task.x_stride + first + j];
        const double step = task.step[t * task.gate_stride + h];
        task.u[t * task.u_stride + first + j] = static_cast<float>(step * x);
        double read = 0.0;
        for (int64_t d = 0; d < keys; ++d)
          read += static_cast<double>(state[d * values + j]) * q[d];
        double sum = static_cast<double>(task.skip[h]) * x + std::exp(decay[at]) * read;
        for (int i = 0; i <= at; ++i) sum += among[i] * update(i)[j];
        task.out[t * task.out_stride + first + j] = static_cast<float>(sum);
      }
    }
    if (end != kDeltaChunk) continue;
    const double last = decay[kDeltaChunk - 1];
    float* next = task.next_state + h * keys * values;
    for (int64_t d = 0; d < keys; ++d) {
      for (int64_t j = 0; j < values; ++j) {
        double sum = std::exp(last) * state[d * values + j];
        for (int i = 0; i < kDeltaChunk; ++i)
          sum += std::exp(last - decay[i]) * key(i)[d] * update(i)[j];
        next[d * values + j] = static_cast<float>(sum);
      }
    }
  }
}

void selective_scan(const ScanTask& task) {
  for (int64_t t = 0; t < task.tokens; ++t) {
    const float* in = task.in + t * task.in_stride;
    for (int64_t c = 0; c < task.channels; ++c) {
      const double x = task.x[t * task.x_stride + c], step = task.step[t * task.step_stride + c];
      double sum = task.out != nullptr ? static_cast<double>(task.skip[c]) * x : 0.0;
      for (int64_t n = 0; n < task.size; ++n) {
        float& state = task.state[n * task.state_stride + c];
        const double rate = task.rate[n * task.rate_stride + c];
        state = static_cast<float>(std::exp(step * rate) * state + step * x * in[n]);
        if (task.out != nullptr)
          sum += static_cast<double>(state) * task.read[t * task.read_stride + n];
      }
      if (task.out != nullptr) task.out[t * task.out_stride + c] = static_cast<float>(sum);
    }
  }
}
