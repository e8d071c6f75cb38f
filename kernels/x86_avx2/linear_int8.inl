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

void int8_affine_matmul(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                        int64_t y_stride, int64_t row_begin, int64_t row_end) {
  with_format(w, [&](auto format) {
    decode_or_multiply<format.kBits, format.kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
  });
}
