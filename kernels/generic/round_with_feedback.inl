// Columns rounded one after another with error feedback: rows of the matrix lie in lanes.
//
// Four columns at a time: their targets take the errors of all earlier columns from registers (16
// sums for 4 loads and 4 broadcasts at 64 bytes), then the four are finished among themselves.
// Operations: columns^2 / 2 multiply-adds and about 15 operations per value; the limit approached
// is the multiply-add rate. Relies on quantize_rounding.inl.

#if JANG_VEC_BYTES == 64 || defined(__aarch64__)
constexpr int kFeedbackVectors = 4;
#else
constexpr int kFeedbackVectors = 2;
#endif

template <int kColumns, int kVectors>
inline void round_columns(const FeedbackTask& task, int64_t first, int64_t row) {
  const vf n = splat(static_cast<float>((1 << task.bits) - 1));
  const float* const targets = task.targets + first * task.stride + row;
  vf target[kColumns][kVectors];
  unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
    unrolled<kVectors>([&](auto v) __attribute__((always_inline)) {
      target[c.value][v.value] = load(targets + c.value * task.stride + v.value * kLanes);
    });
  });
  for (int64_t i = 0; i < first; ++i) {
    const float* const feedback = task.feedback + i * task.feedback_stride + first;
    vf error[kVectors];
    unrolled<kVectors>([&](auto v) __attribute__((always_inline)) {
      error[v.value] = load(task.errors + i * task.stride + row + v.value * kLanes);
    });
    unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
      const vf share = -splat(feedback[c.value]);
      unrolled<kVectors>([&](auto v) __attribute__((always_inline)) {
        target[c.value][v.value] = fma(share, error[v.value], target[c.value][v.value]);
      });
    });
  }
  unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
    const int64_t k = first + c.value;
    const int64_t group = task.groups[k] * task.stride + row;
    const vf cost = splat(task.costs[k]);
    unrolled<kVectors>([&](auto v) __attribute__((always_inline)) {
      const int64_t lane = v.value * kLanes;
      const int64_t at = k * task.stride + row + lane;
      const vf t = target[c.value][v.value];
      const vf s = load(task.scales + group + lane);
      const vf b = load(task.biases + group + lane);
      const vf steps = (t - b) / s;
      const vf code = to_code(steps, n);
      const vf value = s * code + b;
      const vf error = value - load(task.base + at);
      const vf miss = value - t;
      float* const losses = task.losses + row + lane;
      store(losses, load(losses) + cost * (miss * miss));
      store(task.errors + at, error);
      store_codes(task.codes + at, code);
      if (task.clipped != nullptr) {
        const vi outside = (steps < splat(-0.5f)) | (steps > n + 0.5f);
        float* const count = task.clipped + group + lane;
        store(count, load(count) + select(outside, splat(1.0f), vf{}));
      }
      const float* const feedback = task.feedback + k * task.feedback_stride + first;
      unrolled<kColumns, c.value + 1>([&](auto later) __attribute__((always_inline)) {
        target[later.value][v.value] =
            fma(-splat(feedback[later.value]), error, target[later.value][v.value]);
      });
    });
  });
}

template <int kVectors>
inline void round_rows(const FeedbackTask& task, int64_t row) {
  int64_t k = 0;
  for (; k + 4 <= task.columns; k += 4) round_columns<4, kVectors>(task, k, row);
  for (; k < task.columns; ++k) round_columns<1, kVectors>(task, k, row);
}

void round_with_feedback(const FeedbackTask& task) {
  constexpr int64_t kMany = kFeedbackVectors * kLanes;
  constexpr int kFew = static_cast<int>(kFeedbackRows) / kLanes < kFeedbackVectors
                           ? static_cast<int>(kFeedbackRows) / kLanes
                           : kFeedbackVectors;
  int64_t row = 0;
  for (; row + kMany <= task.rows; row += kMany) round_rows<kFeedbackVectors>(task, row);
  for (; row < task.rows; row += kFew * kLanes) round_rows<kFew>(task, row);
}
