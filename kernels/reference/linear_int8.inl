// The integer form of the linear layers: activations rounded per group, dot products of codes in
// integers, everything else in double.
#include "kernels/generic/activation_position.inl"

ActivationOrder activation_order(int /*bits*/) { return ActivationOrder::kNatural; }

void quantize_group(const float* x, int64_t column, int group, ActivationOrder order, int8_t* codes,
                    float* scale, float* sum, float* residual) {
  double total = 0.0;
  float largest = 0.0f;
  bool finite = true;
  for (int i = 0; i < group; ++i) {
    total += x[i];
    finite = finite && std::isfinite(x[i]);
    if (std::fabs(x[i]) > largest) largest = std::fabs(x[i]);
  }
  *sum = static_cast<float>(total);
  const bool none = !finite || largest < kSmallestScaledMax;
  *scale = finite ? (none ? 0.0f : largest / 127.0f) : std::nanf("");
  int64_t code_sum = 0;
  for (int i = 0; i < group; ++i) {
    const float code = none ? 0.0f : std::nearbyint(x[i] * (127.0f / largest));
    codes[activation_position(order, column + i)] = static_cast<int8_t>(code);
    code_sum += static_cast<int64_t>(code);
  }
  *residual =
      static_cast<float>(total - static_cast<double>(*scale) * static_cast<double>(code_sum));
}

void quantize_activations(const float* x, int64_t x_stride, int64_t tokens, int64_t columns,
                          int group, ActivationOrder order, const Int8Activations& out) {
  const int64_t groups = columns / group;
  for (int64_t t = 0; t < tokens; ++t) {
    int8_t* codes = out.codes + t * out.code_stride;
    float* scales = out.scales + t * out.group_stride;
    float* sums = out.sums + t * out.group_stride;
    float* residuals = out.residuals + t * out.group_stride;
    for (int64_t g = 0; g < out.group_stride; ++g) {
      scales[g] = sums[g] = residuals[g] = 0.0f;
      if (g >= groups) continue;
      quantize_group(x + t * x_stride + g * group, g * group, group, order, codes, scales + g,
                     sums + g, residuals + g);
    }
    for (int64_t c = columns; c < out.code_stride; ++c) codes[activation_position(order, c)] = 0;
  }
}

void affine_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  const int64_t groups = w.columns / w.group;
  const double mid = code_middle(w.bits);
  for (int64_t r = row_begin; r < row_end; ++r) {
    const uint8_t* row = w.codes + r * w.columns / 8 * w.bits;
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0.0;
      for (int64_t g = 0; g < groups; ++g) {
        int64_t dot = 0;
        for (int64_t c = g * w.group; c < (g + 1) * w.group; ++c)
          dot += static_cast<int64_t>(code_at(row, c, w.bits)) * x.codes[t * x.code_stride + c];
        const int64_t at = t * x.group_stride + g;
        const double scale = float_at(w.scales, w.metadata, r * groups + g);
        const double bias = float_at(w.biases, w.metadata, r * groups + g);
        sum += scale * (x.scales[at] * static_cast<double>(dot) + mid * x.residuals[at]) +
               bias * x.sums[at];
      }
      y[t * y_stride + r] = static_cast<float>(sum);
    }
  }
}
