// Scales and biases as f32, eight groups at a time, from bytes of any alignment.
//
//   operations per 4 values: one (SHLL, FCVTL), none for f32. Halves go through FCVTL, which keeps
//   subnormal ones in every mode of the floating-point unit.

constexpr int kStrip = 8;  // groups

struct Strip {
  float32x4_t half[2];
};

inline int64_t bytes_of(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }

inline Strip widen_strip(const uint8_t* p, FloatType type) {
  if (type == FloatType::kF32) {
    return {{vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))}};
  }
  const uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(p));
  if (type == FloatType::kBF16) {
    return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
             vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))}};
  }
  const float16x8_t halves = vreinterpretq_f16_u16(v);
  return {{vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)}};
}

// The first n <= kStrip values at p, zeros behind them. What stands there in memory is the next
// row's, possibly an infinity, or nothing at all.
inline Strip load_strip(const uint8_t* p, FloatType type, int64_t n) {
  if (n == kStrip) return widen_strip(p, type);
  uint8_t copy[kStrip * 4] = {};
  __builtin_memcpy(copy, p, static_cast<size_t>(n * bytes_of(type)));
  return widen_strip(copy, type);
}
