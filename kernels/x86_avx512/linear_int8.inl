// Which of the integer forms runs: rows one by one for up to 4 tokens, words turned around as they
// are multiplied for up to 8, tiles for many.

// As the codes of a width come out of their registers most cheaply.
ActivationOrder vnni_activation_order(int bits) {
  if (bits == 2) return ActivationOrder::kWideCrumbs;
  return bits == 4 ? ActivationOrder::kWideNibbles : ActivationOrder::kNatural;
}

void vnni_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                      int64_t y_stride, int64_t row_begin, int64_t row_end) {
  with_format(w, [&](auto format) {
    constexpr int kBits = format.kBits, kGroup = format.kGroup;
    if (tokens <= kDecodeTokens) {
      decode_int8<kBits, kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
    } else if (tokens <= kFewTokens) {
      few_int8<kBits>(w, x, tokens, y, y_stride, row_begin, row_end);
    } else {
      tiles_int8<kBits, kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
    }
  });
}
