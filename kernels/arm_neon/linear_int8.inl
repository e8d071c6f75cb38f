// The choice among the integer linear kernels: by width, group and number of tokens. Expects Tiles,
// the level's tiles for many tokens.

template <int kBits, int kGroup>
void multiply_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                   int64_t y_stride, int64_t row_begin, int64_t row_end) {
  switch (tokens) {
    case 1:
      return decode_rows<kBits, kGroup, 1>(w, x, y, y_stride, row_begin, row_end);
    case 2:
      return decode_rows<kBits, kGroup, 2>(w, x, y, y_stride, row_begin, row_end);
    case 3:
      return decode_rows<kBits, kGroup, 3>(w, x, y, y_stride, row_begin, row_end);
    case 4:
      return decode_rows<kBits, kGroup, 4>(w, x, y, y_stride, row_begin, row_end);
    default:
      return multiply_panels<kBits, Tiles<order_of(kBits), kGroup>>(w, x, tokens, y, y_stride,
                                                                    row_begin, row_end);
  }
}

void affine_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  with_format(w, [&](auto format) {
    multiply_int8<format.kBits, format.kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
  });
}
