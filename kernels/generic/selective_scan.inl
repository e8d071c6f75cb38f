// The selective scan: every channel has its own decay for each number of its state, so that a chunk
// has no matrix form, and the states walk token by token over lanes of channels.
//
// Layout: states, rates [size][channels]. A block of channels goes through all tokens before the
// next one, its state staying in the first cache. Operations: an exponential, two multiply-adds and
// two products for each of `size` numbers of a channel and token; the limit approached is the rate
// of exponentials. Sums over a state run in ascending order.

// Channels of kCount registers from c on.
template <int kCount, bool kRead>
inline void scan_block(const ScanTask& task, int64_t c, int64_t lanes) {
  const auto put = [lanes](float* to, vf value) __attribute__((always_inline)) {
    if (lanes == kLanes) {
      store(to, value);
    } else {
      store_partial(to, value, lanes);
    }
  };
  for (int64_t t = 0; t < task.tokens; ++t) {
    const float* in = task.in + t * task.in_stride;
    const float* read = kRead ? task.read + t * task.read_stride : nullptr;
    vf step[kCount], drive[kCount], sum[kCount];
    unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
      const int64_t at = c + r.value * kLanes;
      const vf x = load_some(task.x + t * task.x_stride + at, lanes);
      step[r.value] = load_some(task.step + t * task.step_stride + at, lanes);
      drive[r.value] = step[r.value] * x;
      if constexpr (kRead) sum[r.value] = load_some(task.skip + at, lanes) * x;
    });
    for (int64_t n = 0; n < task.size; ++n) {
      const float* rates = task.rate + n * task.rate_stride + c;
      float* state = task.state + n * task.state_stride + c;
      const vf b = splat(in[n]);
      unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
        constexpr int kAt = r.value * kLanes;
        const vf kept = exp(step[r.value] * load_some(rates + kAt, lanes));
        const vf s = fma(kept, load_some(state + kAt, lanes), drive[r.value] * b);
        put(state + kAt, s);
        if constexpr (kRead) sum[r.value] = fma(s, splat(read[n]), sum[r.value]);
      });
    }
    if constexpr (kRead) {
      unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
        put(task.out + t * task.out_stride + c + r.value * kLanes, sum[r.value]);
      });
    }
  }
}

template <bool kRead>
inline void scan_channels(const ScanTask& task) {
  constexpr int kRegisters = 2;
  int64_t c = 0;
  for (; c + kRegisters * kLanes <= task.channels; c += kRegisters * kLanes)
    scan_block<kRegisters, kRead>(task, c, kLanes);
  for (; c + kLanes <= task.channels; c += kLanes) scan_block<1, kRead>(task, c, kLanes);
  if (c < task.channels) scan_block<1, kRead>(task, c, task.channels - c);
}

void selective_scan(const ScanTask& task) {
  if (task.out != nullptr) {
    scan_channels<true>(task);
  } else {
    scan_channels<false>(task);
  }
}
