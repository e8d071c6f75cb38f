// One register of floats from and to f16, bf16 and f32 bytes of any alignment.
//
// Widening is exact for every pattern; narrowing rounds to nearest even, keeps infinities and turns
// no NaN into a number. Subnormal halves go through integers, so that a mode that flushes float
// denormals does not lose them.

// kLanes uint16 widened to one register, and its low halves stored.
inline vu load_u16(const uint8_t* p) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  return (vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  return (vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__x86_64__)
  return (vu)_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  uint16_t lanes[kLanes];
  __builtin_memcpy(lanes, p, sizeof lanes);
  vu wide{};
  for (int i = 0; i < kLanes; ++i) wide[i] = lanes[i];
  return wide;
#endif
}
inline void store_u16(uint8_t* p, vu v) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)v));
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  const __m256i pairs = _mm256_packus_epi32((__m256i)v, (__m256i)v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)));
#elif defined(__x86_64__)
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32((__m128i)v, (__m128i)v));
#else
  uint16_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<uint16_t>(v[i]);
  __builtin_memcpy(p, lanes, sizeof lanes);
#endif
}

inline vf half_to_float(vu half) {
  const vu sign = (half & 0x8000u) << 16;
  const vu magnitude = half & 0x7fffu;
  // Exponents 1..30 move from bias 15 to 127, 31 to 255; a subnormal is its mantissa times 2^-24.
  const vu normal = (magnitude << 13) + (112u << 23);
  const vu special = (magnitude << 13) | 0x7f800000u;
  const vf subnormal = to_float((vi)magnitude) * 0x1p-24f;
  vf value = select((vi)(magnitude < 0x0400u), subnormal, (vf)normal);
  value = select((vi)(magnitude >= 0x7c00u), (vf)special, value);
  return (vf)((vu)value | sign);
}

inline vu float_to_half(vf value) {
  const vu bits = (vu)value;
  const vu sign = (bits >> 16) & 0x8000u;
  const vu magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the halves are multiples of 2^-24: adding 2^-1, whose ulp that is, rounds to them.
  const vu subnormal = (vu)((vf)magnitude + 0.5f) - 0x3f000000u;
  const vu normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  const vu nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  vu half = (vu)select((vi)(magnitude < 0x38800000u), (vf)subnormal, (vf)normal);
  half = (vu)select((vi)(magnitude >= 0x477ff000u), (vf)(vu{} + 0x7c00u), (vf)half);  // past 65504
  half = (vu)select((vi)(magnitude > 0x7f800000u), (vf)nan, (vf)half);
  return half | sign;
}

template <FloatType kType>
inline vf load_as(const uint8_t* p) {
  if constexpr (kType == FloatType::kF32) {
    vf v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else if constexpr (kType == FloatType::kBF16) {
    return (vf)(load_u16(p) << 16);
  } else {
#if defined(__AVX512F__) && JANG_VEC_BYTES == 64
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && JANG_VEC_BYTES == 32
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    return half_to_float(load_u16(p));
#endif
  }
}

template <FloatType kType>
inline void store_as(uint8_t* p, vf v) {
  if constexpr (kType == FloatType::kF32) {
    __builtin_memcpy(p, &v, sizeof v);
  } else if constexpr (kType == FloatType::kBF16) {
    const vu bits = (vu)v;
    const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu nan = (bits >> 16) | 0x0040u;  // the quiet bit keeps it from becoming an infinity
    store_u16(p, (vu)select((vi)((bits & 0x7fffffffu) > 0x7f800000u), (vf)nan, (vf)rounded));
  } else {
    store_u16(p, float_to_half(v));
  }
}

template <FloatType kType>
inline constexpr int64_t kBytesOf = kType == FloatType::kF32 ? 4 : 2;

// n < kLanes elements, zeros behind them.
template <FloatType kType>
inline vf load_partial_as(const uint8_t* p, int64_t n) {
  uint8_t bytes[JANG_VEC_BYTES] = {};
  for (int64_t i = 0; i < n * kBytesOf<kType>; ++i) bytes[i] = p[i];
  return load_as<kType>(bytes);
}
template <FloatType kType>
inline void store_partial_as(uint8_t* p, vf v, int64_t n) {
  uint8_t bytes[JANG_VEC_BYTES];
  store_as<kType>(bytes, v);
  for (int64_t i = 0; i < n * kBytesOf<kType>; ++i) p[i] = bytes[i];
}

template <FloatType kType>
void widen(const uint8_t* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load_as<kType>(in + i * kBytesOf<kType>));
  if (i < n) store_partial(out + i, load_partial_as<kType>(in + i * kBytesOf<kType>, n - i), n - i);
}
template <FloatType kType>
void narrow(const float* in, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_as<kType>(out + i * kBytesOf<kType>, load(in + i));
  if (i < n) {
    store_partial_as<kType>(out + i * kBytesOf<kType>, load_partial(in + i, n - i), n - i);
  }
}

void to_float(const uint8_t* in, FloatType type, int64_t n, float* out) {
  switch (type) {
    case FloatType::kF32:
      return widen<FloatType::kF32>(in, n, out);
    case FloatType::kF16:
      return widen<FloatType::kF16>(in, n, out);
    case FloatType::kBF16:
      return widen<FloatType::kBF16>(in, n, out);
  }
}

void from_float(const float* in, FloatType type, int64_t n, uint8_t* out) {
  switch (type) {
    case FloatType::kF32:
      return narrow<FloatType::kF32>(in, n, out);
    case FloatType::kF16:
      return narrow<FloatType::kF16>(in, n, out);
    case FloatType::kBF16:
      return narrow<FloatType::kBF16>(in, n, out);
  }
}
