// Quantized linear layers on int8 activations: the entries of the table, and the choice between the
// two loops, which share the unpacking. Levels avx2 and avx2_vnni are this source; the dot product
// is chosen by what the compiler may use.
#include "kernels/x86_avx2/int8_codes.inl"
#include "kernels/x86_avx2/int8_dot.inl"
#include "kernels/x86_avx2/int8_metadata.inl"
//
#include "kernels/x86_avx2/int8_decode.inl"
#include "kernels/x86_avx2/int8_tiles.inl"

// As the fields of a byte come out of part().
ActivationOrder int8_activation_order(int bits) {
  if (bits == 2) return ActivationOrder::kCrumbs;
  return bits <= 4 ? ActivationOrder::kNibbles : ActivationOrder::kNatural;
}

template <int kBits, int kGroup, int kTokens = static_cast<int>(kDecodeTokens)>
void decode_or_multiply(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if (tokens > kTokens)
    return multiply_rows<kBits>(w, group_walk<kBits, kGroup>(), x, tokens, y, y_stride, row_begin,
                                row_end);
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      return decode_or_multiply<kBits, kGroup, kTokens - 1>(w, x, tokens, y, y_stride, row_begin,
                                                            row_end);
    }
  }
  DecodeRows<kBits, kGroup, kTokens>(w, x).run(y, y_stride, row_begin, row_end);
}

template <int kBits, typename... Args>
void int8_matmul_of(const AffineMatrix& w, const Args&... args) {
  switch (w.group) {
    case 32:
      return decode_or_multiply<kBits, 32>(w, args...);
    case 64:
      return decode_or_multiply<kBits, 64>(w, args...);
    case 128:
      return decode_or_multiply<kBits, 128>(w, args...);
  }
}

void int8_affine_matmul(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  switch (w.bits) {
    case 2:
      return int8_matmul_of<2>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 3:
      return int8_matmul_of<3>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 4:
      return int8_matmul_of<4>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 5:
      return int8_matmul_of<5>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 6:
      return int8_matmul_of<6>(w, x, tokens, y, y_stride, row_begin, row_end);
    case 8:
      return int8_matmul_of<8>(w, x, tokens, y, y_stride, row_begin, row_end);
  }
}
