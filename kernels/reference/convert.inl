// f16, bf16 and f32 bytes from and to float, element by element.

template <typename T>
T element(const uint8_t* p, int64_t i) {
  T v;
  __builtin_memcpy(&v, p + i * static_cast<int64_t>(sizeof v), sizeof v);
  return v;
}

float half_to_float(uint16_t half) {
  const int exponent = (half >> 10) & 0x1f;
  const int mantissa = half & 0x3ff;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * static_cast<float>(std::ldexp(mantissa, -24));
  if (exponent < 31) return sign * static_cast<float>(std::ldexp(1024 + mantissa, exponent - 25));
  return bits_float((static_cast<uint32_t>(half & 0x8000) << 16) | 0x7f800000u |
                    (static_cast<uint32_t>(mantissa) << 13));
}

uint16_t float_to_half(float x) {
  const uint32_t sign = (float_bits(x) >> 16) & 0x8000u;
  if (std::isnan(x)) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((float_bits(x) >> 13) & 0x3ffu));
  }
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00u);
  // In units of the half's ulp, at least 2^-24; carrying into the next binade needs no care,
  // because the exponent field follows the mantissa.
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  const uint32_t bits =
      magnitude < 0x1p-14 ? units : (static_cast<uint32_t>(exponent + 14) << 10) + units;
  return static_cast<uint16_t>(sign | bits);
}

float bf16_to_float(uint16_t x) { return bits_float(static_cast<uint32_t>(x) << 16); }

uint16_t float_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  if (std::isnan(x)) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  const uint32_t rest = bits & 0xffffu;
  const bool up = rest > 0x8000u || (rest == 0x8000u && ((bits >> 16) & 1u) != 0);
  return static_cast<uint16_t>((bits >> 16) + (up ? 1u : 0u));
}

float float_at(const uint8_t* p, FloatType type, int64_t i) {
  switch (type) {
    case FloatType::kF16:
      return half_to_float(element<uint16_t>(p, i));
    case FloatType::kBF16:
      return bf16_to_float(element<uint16_t>(p, i));
    case FloatType::kF32:
      break;
  }
  return element<float>(p, i);
}

void to_float(const uint8_t* in, FloatType type, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = float_at(in, type, i);
}

void from_float(const float* in, FloatType type, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    if (type == FloatType::kF32) {
      __builtin_memcpy(out + 4 * i, in + i, 4);
    } else {
      const uint16_t narrow = type == FloatType::kF16 ? float_to_half(in[i]) : float_to_bf16(in[i]);
      __builtin_memcpy(out + 2 * i, &narrow, 2);
    }
  }
}
