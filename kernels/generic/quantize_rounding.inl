// Rounding to the metadata type, code rounding and group extremes for the quantizers, in vector
// form.
//
// Included by quantize.inl after vec.inl. Every operation is the one of reference/quantize.inl,
// lane by lane, so that all levels choose the same bits.

inline float bits_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

inline uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline vu splat_bits(uint32_t x) { return x - vu{}; }

// The inner loops of the search live on these two; compilers make compare-and-mask pairs of the
// ternaries.
inline vi min_int(vi a, vi b) {
#if defined(__AVX512F__) && JANG_VEC_BYTES == 64
  return (vi)_mm512_maskz_min_epi32(0xffff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && JANG_VEC_BYTES == 32
  return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b);
#elif defined(__SSE4_1__) && JANG_VEC_BYTES == 16
  return (vi)_mm_min_epi32((__m128i)a, (__m128i)b);
#else
  return a < b ? a : b;
#endif
}

inline vi max_int(vi a, vi b) {
#if defined(__AVX512F__) && JANG_VEC_BYTES == 64
  return (vi)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && JANG_VEC_BYTES == 32
  return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#elif defined(__SSE4_1__) && JANG_VEC_BYTES == 16
  return (vi)_mm_max_epi32((__m128i)a, (__m128i)b);
#else
  return a > b ? a : b;
#endif
}

// A float as the metadata type holds it: nearest, ties to even, infinity past the largest value.
inline vf stored(vf x, FloatType type) {
  if (type == FloatType::kF32) return x;
  const vu u = (vu)x;
  if (type == FloatType::kBF16) return (vf)((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
  const vu sign = u & 0x80000000u;
  const vu magnitude = u & 0x7fffffffu;
  const vu normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & ~0x1fffu;
  const vf subnormal = ((vf)magnitude + 0.5f) - 0.5f;  // multiples of 2^-24, one ulp of 0.5
  const vf finite = select((vi)(magnitude < 0x38800000u), subnormal, (vf)normal);
  const vf value = select((vi)(magnitude >= 0x477ff000u), (vf)splat_bits(0x7f800000u), finite);
  return (vf)((vu)value | sign);
}

inline float stored(float x, FloatType type) { return stored(splat(x), type)[0]; }

// Clamped to [0, n] and rounded to nearest even. A NaN gives 0.
inline vf to_code(vf t, vf n) {
  const vf low = t > vf{} ? t : vf{};
  const vf high = low < n ? low : n;
  return (high + kRound) - kRound;
}

inline void store_codes(uint8_t* out, vf codes) {
  typedef uint8_t bytes __attribute__((vector_size(kLanes)));
  const bytes narrow = __builtin_convertvector(to_int(codes), bytes);
  __builtin_memcpy(out, &narrow, sizeof narrow);
}

// MLX's (s, b) of one group before rounding to the metadata type: docs/format.md, section 3.
struct PlainPair {
  float scale, bias;
  float largest;  // magnitude of the largest element
};

// Order of the floats as integers: independent of the denormal mode of the thread.
inline vi order_key(vf x) { return (vi)x ^ (((vi)x >> 31) & 0x7fffffff); }
inline float from_key(int32_t key) {
  return bits_float(static_cast<uint32_t>(key ^ ((key >> 31) & 0x7fffffff)));
}

inline PlainPair plain_pair(const float* x, int group, int bits) {
  vi low = order_key(load(x));
  vi high = low;
  for (int i = kLanes; i < group; i += kLanes) {
    const vi key = order_key(load(x + i));
    low = min_int(low, key);
    high = max_int(high, key);
  }
  int32_t low_key = low[0], high_key = high[0];
  for (int lane = 1; lane < kLanes; ++lane) {
    low_key = low[lane] < low_key ? low[lane] : low_key;
    high_key = high[lane] > high_key ? high[lane] : high_key;
  }
  const float least = from_key(low_key), most = from_key(high_key);
  const uint32_t least_size = float_bits(least) & 0x7fffffffu;
  const uint32_t most_size = float_bits(most) & 0x7fffffffu;
  const bool negative = least_size > most_size;
  const float step = (most - least) / static_cast<float>((1 << bits) - 1);
  float scale = step > 1e-7f ? step : 1e-7f;
  if (!negative) scale = -scale;
  const float edge = negative ? least : most;
  const float q0 = rint_even(splat(edge / scale))[0];
  const float largest = bits_float(negative ? least_size : most_size);
  if (q0 == 0.0f) return {scale, 0.0f, largest};
  return {edge / q0, edge, largest};
}
