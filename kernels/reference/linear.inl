// Linear layers: every product and sum in double.

uint32_t code_at(const uint8_t* row, int64_t i, int bits) {
  uint32_t code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = i * bits + b;
    code |= static_cast<uint32_t>((row[at / 8] >> (at % 8)) & 1) << b;
  }
  return code;
}

double weight_at(const AffineMatrix& w, int64_t row, int64_t column) {
  const int64_t group = row * (w.columns / w.group) + column / w.group;
  const double scale = float_at(w.scales, w.metadata, group);
  const double bias = float_at(w.biases, w.metadata, group);
  return scale * code_at(w.codes + row * w.columns / 8 * w.bits, column, w.bits) + bias;
}

double weight_at(const DenseMatrix& w, int64_t row, int64_t column) {
  return float_at(w.data, w.type, row * w.columns + column);
}

// A weight is taken out of the row once for up to kTokens tokens, each with its own sum.
template <typename Matrix>
void matmul(const Matrix& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
            int64_t y_stride, int64_t row_begin, int64_t row_end) {
  constexpr int64_t kTokens = 16;
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = tokens - first < kTokens ? tokens - first : kTokens;
    for (int64_t r = row_begin; r < row_end; ++r) {
      double sum[kTokens] = {};
      for (int64_t c = 0; c < w.columns; ++c) {
        const double weight = weight_at(w, r, c);
        for (int64_t t = 0; t < count; ++t) sum[t] += weight * x[(first + t) * x_stride + c];
      }
      for (int64_t t = 0; t < count; ++t)
        y[(first + t) * y_stride + r] = static_cast<float>(sum[t]);
    }
  }
}

template <typename Matrix>
void row_of(const Matrix& w, int64_t row, float* out) {
  for (int64_t c = 0; c < w.columns; ++c) out[c] = static_cast<float>(weight_at(w, row, c));
}

void affine_matmul(const AffineMatrix& w, const float* x, int64_t x_stride, int64_t tokens,
                   float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  matmul(w, x, x_stride, tokens, y, y_stride, row_begin, row_end);
}

void dense_matmul(const DenseMatrix& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
                  int64_t y_stride, int64_t row_begin, int64_t row_end) {
  matmul(w, x, x_stride, tokens, y, y_stride, row_begin, row_end);
}

void affine_row(const AffineMatrix& w, int64_t row, float* out) { row_of(w, row, out); }
void dense_row(const DenseMatrix& w, int64_t row, float* out) { row_of(w, row, out); }

int64_t row_block() { return 64; }
