// Quantized linear layers on int8 activations, for levels without a dot product of their own: a
// panel of a row is unpacked to one code a byte and used for all tokens.
//
//   operations per 16 weights and token: a widening of either side, two multiply-adds of pairs.
//   Bound: arithmetic.

ActivationOrder activation_order(int /*bits*/) { return ActivationOrder::kNatural; }

inline int32_t dot(const uint8_t* q, const int8_t* x, int n) {
  int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<int32_t>(q[i]) * x[i];
  return sum;
}

void affine_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  const int64_t groups = w.columns / w.group;
  const int64_t metadata_bytes = w.metadata == FloatType::kF32 ? 4 : 2;
  const float mid = code_middle(w.bits);
  uint8_t codes[kPanel];
  float scales[kPanel / 32], biases[kPanel / 32];
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t begin = 0; begin < w.columns; begin += kPanel) {
      const int64_t columns = panel_columns(w.columns, begin);
      const int64_t first = begin / w.group;
      const int64_t count = columns / w.group;
      const int64_t at = (row * groups + first) * metadata_bytes;
      to_float(w.scales + at, w.metadata, count, scales);
      to_float(w.biases + at, w.metadata, count, biases);
      unpack(w.codes + (row * w.columns + begin) / 8 * w.bits, columns, w.bits, codes);
      for (int64_t t = 0; t < tokens; ++t) {
        const int8_t* xq = x.codes + t * x.code_stride + begin;
        const float* xs = x.scales + t * x.group_stride + first;
        const float* xz = x.sums + t * x.group_stride + first;
        const float* xr = x.residuals + t * x.group_stride + first;
        float sum = begin == 0 ? 0.0f : y[t * y_stride + row];
        for (int64_t g = 0; g < count; ++g) {
          const int32_t product = dot(codes + g * w.group, xq + g * w.group, w.group);
          sum +=
              scales[g] * (xs[g] * static_cast<float>(product) + mid * xr[g]) + biases[g] * xz[g];
        }
        y[t * y_stride + row] = sum;
      }
    }
  }
}
