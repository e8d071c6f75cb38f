// What the solvers of quantization compute with: products with sums in double, and columns rounded
// one after another.

template <typename T>
void product(const ProductTask<T>& task) {
  double sums[kProductTile];
  for (int64_t i = 0; i < task.rows; ++i) {
    for (double& sum : sums) sum = 0.0;
    for (int64_t k = 0; k < task.depth; ++k) {
      const double weight = task.weights != nullptr ? static_cast<double>(task.weights[k]) : 1.0;
      const double a =
          weight * static_cast<double>(task.a[k * task.a_depth_stride + i * task.a_row_stride]);
      const T* b = task.b + k * task.b_stride;
      for (int64_t j = 0; j < task.columns; ++j) sums[j] += a * static_cast<double>(b[j]);
    }
    T* c = task.c + i * task.c_stride;
    for (int64_t j = 0; j < task.columns; ++j)
      c[j] = static_cast<T>(static_cast<double>(c[j]) + static_cast<double>(task.alpha) * sums[j]);
  }
}

void product_f32(const ProductTask<float>& task) { product(task); }
void product_f64(const ProductTask<double>& task) { product(task); }

void round_with_feedback(const FeedbackTask& task) {
  const float n = static_cast<float>((1 << task.bits) - 1);
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t k = 0; k < task.columns; ++k) {
      const int64_t at = k * task.stride + row;
      const int64_t group_at = task.groups[k] * task.stride + row;
      double target = static_cast<double>(task.targets[at]);
      for (int64_t i = 0; i < k; ++i) {
        target -= static_cast<double>(task.feedback[i * task.feedback_stride + k]) *
                  static_cast<double>(task.errors[i * task.stride + row]);
      }
      const auto t = static_cast<float>(target);
      const float s = task.scales[group_at];
      const float b = task.biases[group_at];
      const float steps = (t - b) / s;
      const float code = to_code(steps, n);
      const float value = s * code + b;
      task.codes[at] = static_cast<uint8_t>(code);
      task.errors[at] = value - task.base[at];
      task.losses[row] += task.costs[k] * ((value - t) * (value - t));
      if (task.clipped != nullptr && (steps < -0.5f || steps > n + 0.5f))
        task.clipped[group_at] += 1.0f;
    }
  }
}
