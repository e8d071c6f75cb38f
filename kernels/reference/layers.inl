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

void scale(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void soft_cap(float* x, float cap, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    x[i] = static_cast<float>(cap * std::tanh(static_cast<double>(x[i]) / cap));
}

void clamp(float* x, float limit, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::max(std::min(x[i], limit), -limit);
}

void add_rms_norm(float* x, const float* y, const float* weight, float weight_offset, float eps,
                  int64_t tokens, int64_t n, float* out) {
  add(x, y, tokens * n);
  rms_norm(x, n, weight, weight_offset, eps, tokens, n, out, n);
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t tokens,
                int64_t n, float* out) {
  for (int64_t t = 0; t < tokens; ++t, x += n, out += n) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    const double mean = sum / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      const double shift = bias == nullptr ? 0.0 : bias[i];
      out[i] = static_cast<float>((x[i] - mean) * scale * weight[i] + shift);
    }
  }
}

void gelu_mul(const float* gate, const float* up, int64_t n, bool tanh_form, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    const double inner = std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g);
    const double step = tanh_form ? std::tanh(inner) : std::erf(g * M_SQRT1_2);
    const double factor = up == nullptr ? 1.0 : up[i];
    out[i] = static_cast<float>(0.5 * g * (1.0 + step) * factor);
  }
}

void relu_squared(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float above = x[i] < 0.0f ? 0.0f : x[i];
    out[i] = above * above;
  }
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

void clamped_swiglu(const float* gate, const float* up, float limit, float slope, int64_t n,
                    float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = std::min(gate[i], limit);
    const double u = std::max(std::min(up[i], limit), -limit);
    out[i] = static_cast<float>(g / (1.0 + std::exp(-slope * g)) * (u + 1.0));
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

void norm_rope(float* x, int64_t head_stride, int heads, int dim, const float* weight,
               float weight_offset, float eps, int half, bool interleaved, const float* cos,
               const float* sin) {
  rms_norm(x, head_stride, weight, weight_offset, eps, heads, dim, x, head_stride);
  rope(x, head_stride, heads, half, interleaved, cos, sin);
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

void top_k(const float* x, int64_t n, int64_t k, int64_t* indices) {
  const auto before = [x](int64_t a, int64_t b) {
    const float left = std::isnan(x[a]) ? -INFINITY : x[a];
    const float right = std::isnan(x[b]) ? -INFINITY : x[b];
    return left > right || (left == right && a < b);
  };
  // Insertion into the sorted list of the best so far.
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (found == k && !before(i, indices[k - 1])) continue;
    int64_t at = found < k ? found++ : k - 1;
    for (; at > 0 && before(i, indices[at - 1]); --at) indices[at] = indices[at - 1];
    indices[at] = i;
  }
}
