// Integer dot products of unsigned weights and signed activations: USDOT takes them as they are.
template <int kBits>
inline constexpr bool kNegated = false;

// A register of codes as dot() takes it.
template <int kBits>
inline uint8x16_t operand(uint8x16_t q) {
  return q;
}

template <int kBits>
inline int32x4_t dot(int32x4_t sum, uint8x16_t q, int8x16_t x) {
  return vusdotq_s32(sum, q, x);
}
