// What surrounds a recurrence: the depthwise convolution before it, which with gates of its own is
// a layer by itself, the gates of delta rules and of state space models, and output gates.
//
// Layout: channels are lanes, weights [taps][channels]. Operations: taps multiply-adds and an
// exponential per channel and token; the limit approached is reading and writing the rows.

inline vf logistic(vf x) { return 1.0f / (exp(-x) + 1.0f); }

void sigmoid_mul(const float* x, const float* gate, int64_t n, float* out) {
  gated(gate, x, n, out, [](vf g, vf v) { return v * logistic(g); });
}

// ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x| in [0, 1]; with z = y / (2 + y), at most 1/3, the
// logarithm is 2 atanh(z), whose series is cut behind z^15 (relative remainder below 2e-9).
inline vf softplus(vf x) {
  const vf y = exp(-abs(x));
  const vf z = y / (y + 2.0f);
  const vf s = z * z;
  vf p = splat(1.0f / 15.0f);
  constexpr float kNext[] = {1.0f / 13.0f, 1.0f / 11.0f, 1.0f / 9.0f, 1.0f / 7.0f,
                             1.0f / 5.0f,  1.0f / 3.0f,  1.0f};
  for (const float c : kNext) p = fma(p, s, splat(c));
  return max(x, splat(0.0f)) + (z + z) * p;
}

void delta_gates(const float* b, const float* a, const float* rate, const float* shift, int64_t n,
                 float* beta, float* log_decay) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t lanes = n - i < kLanes ? n - i : kLanes;
    const vf open = logistic(load_some(b + i, lanes));
    const vf decay = load_some(rate + i, lanes) *
                     softplus(load_some(a + i, lanes) + load_some(shift + i, lanes));
    if (lanes == kLanes) {
      store(beta + i, open);
      store(log_decay + i, decay);
    } else {
      store_partial(beta + i, open, lanes);
      store_partial(log_decay + i, decay, lanes);
    }
  }
}

void step_gates(const float* x, const float* shift, const float* rate, float low, float high,
                int64_t n, float* step, float* log_decay) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t lanes = n - i < kLanes ? n - i : kLanes;
    const auto put = [lanes](float* to, vf value) __attribute__((always_inline)) {
      if (lanes == kLanes) {
        store(to, value);
      } else {
        store_partial(to, value, lanes);
      }
    };
    vf value = load_some(x + i, lanes);
    if (shift != nullptr) value = value + load_some(shift + i, lanes);
    value = max(min(softplus(value), splat(high)), splat(low));
    put(step + i, value);
    if (rate != nullptr) put(log_decay + i, load_some(rate + i, lanes) * value);
  }
}

// One token's `lanes` channels from `c` on.
inline void conv_lanes(const ConvTask& task, int64_t t, int64_t c, int64_t lanes) {
  vf sum = task.bias != nullptr ? load_some(task.bias + c, lanes) : vf{};
  const int64_t before = task.taps - 1;
  for (int64_t j = 0; j < task.taps; ++j) {
    const int64_t at = t - before + j;
    const float* row =
        at < 0 ? task.history + (before + at) * task.history_stride : task.x + at * task.x_stride;
    vf input = load_some(row + c, lanes);
    if (at >= 0 && task.input_gate != nullptr)
      input = input * load_some(task.input_gate + at * task.x_stride + c, lanes);
    sum = fma(load_some(task.weights + j * task.weight_stride + c, lanes), input, sum);
  }
  if (task.silu) sum = sum / (exp(-sum) + 1.0f);
  if (task.output_gate != nullptr)
    sum = sum * load_some(task.output_gate + t * task.x_stride + c, lanes);
  float* out = task.out + t * task.out_stride + c;
  if (lanes == kLanes) {
    store(out, sum);
  } else {
    store_partial(out, sum, lanes);
  }
}

void causal_conv(const ConvTask& task) {
  for (int64_t t = task.first; t < task.tokens; ++t) {
    int64_t c = 0;
    for (; c + kLanes <= task.channels; c += kLanes) conv_lanes(task, t, c, kLanes);
    if (c < task.channels) conv_lanes(task, t, c, task.channels - c);
  }
}
