// The vector vocabulary: a handful of operations on "one register of floats", on the compiler's
// vector types.
//
// Included inside the unnamed namespace of an instruction-set folder after JANG_VEC_BYTES (16, 32
// or 64) is defined, so that no symbol is shared between levels. The operations that the quantizers
// use (all but multiply-add chains written as a*b+c in the layers) round alike at every width: same
// lanes, same bits.
#ifndef JANG_VEC_BYTES
#error "define JANG_VEC_BYTES before including generic/vec.inl"
#endif

constexpr int kLanes = JANG_VEC_BYTES / 4;

typedef float vf __attribute__((vector_size(JANG_VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(JANG_VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(JANG_VEC_BYTES)));

typedef double vd __attribute__((vector_size(JANG_VEC_BYTES)));

[[maybe_unused]] inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
[[maybe_unused]] inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
[[maybe_unused]] inline vf splat(float x) { return x - vf{}; }
[[maybe_unused]] inline vi splat_int(int32_t x) { return x - vi{}; }
[[maybe_unused]] inline vf select(vi mask, vf a, vf b) {
  return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}
// As std::min and std::max on floats: the first argument if either is a NaN. The instructions
// return their second one then.
[[maybe_unused]] inline vf min(vf a, vf b) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  return (vf)_mm512_min_ps((__m512)b, (__m512)a);
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  return (vf)_mm256_min_ps((__m256)b, (__m256)a);
#elif defined(__x86_64__)
  return (vf)_mm_min_ps((__m128)b, (__m128)a);
#else
  return select(b < a, b, a);
#endif
}
[[maybe_unused]] inline vf max(vf a, vf b) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  return (vf)_mm512_max_ps((__m512)b, (__m512)a);
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  return (vf)_mm256_max_ps((__m256)b, (__m256)a);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)b, (__m128)a);
#else
  return select(a < b, b, a);
#endif
}
[[maybe_unused]] inline vf abs(vf a) { return (vf)((vi)a & splat_int(0x7fffffff)); }
[[maybe_unused]] inline vf to_float(vi a) { return __builtin_convertvector(a, vf); }
// Truncates; lanes outside int32 are undefined.
[[maybe_unused]] inline vi to_int(vf a) { return __builtin_convertvector(a, vi); }

// Half to even for every float: below 2^23 by adding and removing 2^23 with the sign of the
// argument, above it the value is an integer already. NaN and infinity pass through.
[[maybe_unused]] inline vf rint_even(vf a) {
  const vi sign = (vi)a & splat_int(static_cast<int32_t>(0x80000000u));
  const vf magic = (vf)((vi)splat(8388608.0f) | sign);
  const vf rounded = (a + magic) - magic;
  return select(abs(a) < splat(8388608.0f), (vf)(((vi)rounded & splat_int(0x7fffffff)) | sign), a);
}

// A loop whose counter is a constant: f(Index<0>{}) .. f(Index<kCount - 1>{}). Arrays of registers
// that are indexed by it stay in registers.
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};
template <int kCount, int kBegin = 0, typename F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  if constexpr (kBegin < kCount) {
    f(Index<kBegin>{});
    unrolled<kCount, kBegin + 1>(f);
  }
}

// a*b + c, rounded once where the instruction set has it and twice where it has not.
[[maybe_unused]] inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__) && JANG_VEC_BYTES == 64
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && JANG_VEC_BYTES == 32
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

[[maybe_unused]] inline vd fma(vd a, vd b, vd c) {
#if defined(__AVX512F__) && JANG_VEC_BYTES == 64
  return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__) && JANG_VEC_BYTES == 32
  return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// The first n lanes, zeros behind them; n in [0, kLanes].
[[maybe_unused]] inline vf load_partial(const float* p, int64_t n) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
[[maybe_unused]] inline void store_partial(float* p, vf v, int64_t n) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// Lanes added in a fixed tree.
[[maybe_unused]] inline float sum_lanes(vf v) {
  float lanes[kLanes];
  __builtin_memcpy(lanes, &v, sizeof v);
  for (int step = kLanes / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}
