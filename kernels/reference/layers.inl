// Norms, pointwise layers, rotary embedding, softmax and argmax, in double.

void rms_norm(const float* x, int64_t x_stride, const float* weight, float weight_offset, float eps,
              int64_t tokens, int64_t n, float* out, int64_t out_stride) {
  for (int64_t t = 0; t < tokens; ++t, x += x_stride, out += out_stride) {
    double squares = 0.0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      const double gain = weight == nullptr
                              ? 1.0
                              : static_cast<double>(weight[i]) + static_cast<double>(weight_offset);
      out[i] = static_cast<float>(x[i] * scale * gain);
    }
  }
}

void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

void rope(float* x, int64_t head_stride, int heads, int half, bool interleaved, const float* cos,
          const float* sin) {
  for (int h = 0; h < heads; ++h, x += head_stride) {
    for (int i = 0; i < half; ++i) {
      float& first = x[interleaved ? 2 * i : i];
      float& second = x[interleaved ? 2 * i + 1 : i + half];
      const double a = first, b = second;
      first = static_cast<float>(a * cos[i] - b * sin[i]);
      second = static_cast<float>(b * cos[i] + a * sin[i]);
    }
  }
}

void softmax(float* x, int64_t n) {
  float top = x[0];
  for (int64_t i = 1; i < n; ++i) top = std::fmax(top, x[i]);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - top);
  for (int64_t i = 0; i < n; ++i)
    x[i] = static_cast<float>(std::exp(static_cast<double>(x[i]) - top) / sum);
}

int64_t argmax(const float* x, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(x[i]) && (best < 0 || x[i] > x[best])) best = i;
  }
  return best < 0 ? 0 : best;
}
