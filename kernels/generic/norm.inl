// RMSNorm: one pass for the sum of squares in four registers of lanes, one pass for the product.

inline float mean_square(const float* x, int64_t n) {
  vf sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const vf v = load(x + i + j * kLanes);
      sum[j] = fma(v, v, sum[j]);
    }
  }
  for (; i < n; i += kLanes) {
    const vf v = i + kLanes <= n ? load(x + i) : load_partial(x + i, n - i);
    sum[0] = fma(v, v, sum[0]);
  }
  return sum_tree((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
}

void rms_norm(const float* x, int64_t x_stride, const float* weight, float weight_offset, float eps,
              int64_t tokens, int64_t n, float* out, int64_t out_stride) {
  for (int64_t t = 0; t < tokens; ++t, x += x_stride, out += out_stride) {
    const float scale = 1.0f / __builtin_sqrtf(mean_square(x, n) + eps);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const vf normed = load(x + i) * scale;
      store(out + i, weight == nullptr ? normed : normed * (load(weight + i) + weight_offset));
    }
    for (; i < n; ++i) {
      const float normed = x[i] * scale;
      out[i] = weight == nullptr ? normed : normed * (weight[i] + weight_offset);
    }
  }
}
