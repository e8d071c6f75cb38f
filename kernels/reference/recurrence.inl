// Convolution, gates and the gated delta rule as their definitions read, sums in double.

void sigmoid_mul(const float* x, const float* gate, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<float>(x[i] / (1.0 + std::exp(-static_cast<double>(gate[i]))));
}

void causal_conv(const ConvTask& task) {
  for (int64_t t = task.first; t < task.tokens; ++t) {
    for (int64_t c = 0; c < task.channels; ++c) {
      double sum = task.bias != nullptr ? task.bias[c] : 0.0;
      for (int64_t j = 0; j < task.taps; ++j) {
        const int64_t at = t - task.taps + 1 + j;
        double input = at < 0 ? task.history[(task.taps - 1 + at) * task.history_stride + c]
                              : task.x[at * task.x_stride + c];
        if (at >= 0 && task.input_gate != nullptr) input *= task.input_gate[at * task.x_stride + c];
        sum += task.weights[j * task.weight_stride + c] * input;
      }
      if (task.silu) sum /= 1.0 + std::exp(-sum);
      if (task.output_gate != nullptr) sum *= task.output_gate[t * task.x_stride + c];
      task.out[t * task.out_stride + c] = static_cast<float>(sum);
    }
  }
}

void delta_gates(const float* b, const float* a, const float* rate, const float* shift, int64_t n,
                 float* beta, float* log_decay) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(a[i]) + static_cast<double>(shift[i]);
    const double open = 1.0 / (1.0 + std::exp(-static_cast<double>(b[i])));
    log_decay[i] =
        static_cast<float>(rate[i] * (std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)))));
    beta[i] = static_cast<float>(open);
  }
}

void delta_chunk(const DeltaTask& task) {
  const auto key = [&](int i) {
    return i < task.past ? task.past_k + i * task.past_k_stride
                         : task.k + (i - task.past) * task.qk_stride;
  };
  const auto update = [&](int i) {
    return i < task.past ? task.past_u + i * task.past_u_stride
                         : task.u + (i - task.past) * task.u_stride;
  };
  const auto dot = [&](const float* a, const float* b) {
    double sum = 0.0;
    for (int d = 0; d < task.key_dim; ++d) sum += static_cast<double>(a[d]) * b[d];
    return sum;
  };
  double decay[kDeltaChunk];
  const int end = task.past + task.tokens;
  for (int i = 0; i < end; ++i) {
    decay[i] = (i > 0 ? decay[i - 1] : 0.0) +
               (i < task.past ? task.past_decay[i * task.past_gate_stride]
                              : task.log_decay[(i - task.past) * task.gate_stride]);
  }
  const auto read_state = [&](const float* x, int64_t j) {
    double sum = 0.0;
    for (int64_t d = 0; d < task.key_dim; ++d)
      sum += static_cast<double>(task.state[d * task.value_dim + j]) * x[d];
    return sum;
  };
  for (int t = 0; t < task.tokens; ++t) {
    const int at = task.past + t;
    const float* k = task.k + t * task.qk_stride;
    const float* q = task.q + t * task.qk_stride;
    double among_k[kDeltaChunk], among_q[kDeltaChunk];
    for (int i = 0; i <= at; ++i) {
      const double factor = std::exp(decay[at] - decay[i]);
      among_k[i] = factor * dot(key(i), k);
      among_q[i] = factor * dot(key(i), q);
    }
    for (int64_t j = 0; j < task.value_dim; ++j) {
      const double kept = std::exp(decay[at]);
      double found = task.v[t * task.v_stride + j] - kept * read_state(k, j);
      double out = kept * read_state(q, j);
      for (int i = 0; i < at; ++i) {
        found -= among_k[i] * update(i)[j];
        out += among_q[i] * update(i)[j];
      }
      const auto u = static_cast<float>(task.beta[t * task.gate_stride] * found);
      task.u[t * task.u_stride + j] = u;
      task.out[t * task.out_stride + j] = static_cast<float>(out + among_q[at] * u);
    }
  }
  if (end != kDeltaChunk) return;
  const double last = decay[kDeltaChunk - 1];
  for (int64_t d = 0; d < task.key_dim; ++d) {
    for (int64_t j = 0; j < task.value_dim; ++j) {
      double sum = std::exp(last) * task.state[d * task.value_dim + j];
      for (int i = 0; i < kDeltaChunk; ++i)
        sum += std::exp(last - decay[i]) * key(i)[d] * update(i)[j];
      task.next_state[d * task.value_dim + j] = static_cast<float>(sum);
    }
  }
}
