// Integer dot products of unsigned weights and signed activations with SDOT, which takes both as
// signed.
//
// Codes of up to 7 bits are what they are. For 8 bits the weights enter as 127 - q, which fits a
// signed byte, and a further product with -127 makes the sum minus the wanted one:
//   sum (127 - q) x + sum -127 x = -sum q x.
// Whoever adds the result up subtracts it instead.
template <int kBits>
inline constexpr bool kNegated = kBits == 8;

// A register of codes as dot() takes it.
template <int kBits>
inline uint8x16_t operand(uint8x16_t q) {
  return kNegated<kBits> ? veorq_u8(q, vdupq_n_u8(0x7f)) : q;
}

inline int32x4_t dot_offset(int32x4_t sum, int8x16_t x) {
  return vdotq_s32(sum, vdupq_n_s8(-127), x);
}

template <int kBits>
inline int32x4_t dot(int32x4_t sum, uint8x16_t q, int8x16_t x) {
  sum = vdotq_s32(sum, vreinterpretq_s8_u8(q), x);
  return kNegated<kBits> ? dot_offset(sum, x) : sum;
}
