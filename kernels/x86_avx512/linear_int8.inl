// Which of the two integer forms runs: rows one by one for few tokens, tiles for many.

template <int kBits, int kGroup>
void linear_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                 int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if (tokens <= kDecodeTokens) {
    decode_int8<kBits, kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
  } else {
    tiles_int8<kBits, kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
  }
}

template <int kBits, typename... Rest>
void linear_int8_group(const AffineMatrix& w, const Rest&... rest) {
  switch (w.group) {
    case 32:
      return linear_int8<kBits, 32>(w, rest...);
    case 64:
      return linear_int8<kBits, 64>(w, rest...);
    case 128:
      return linear_int8<kBits, 128>(w, rest...);
  }
}

void vnni_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                      int64_t y_stride, int64_t row_begin, int64_t row_end) {
  switch (w.bits) {
    case 2:
      return linear_int8_group<2>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 3:
      return linear_int8_group<3>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 4:
      return linear_int8_group<4>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 5:
      return linear_int8_group<5>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 6:
      return linear_int8_group<6>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 8:
      return linear_int8_group<8>(w, x, tokens, y, y_stride, row_begin, row_end);
  }
}
