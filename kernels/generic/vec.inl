// The vector vocabulary: a handful of operations on "one register of floats", on the compiler's vector types.
//
// Included inside the unnamed namespace of an instruction-set folder after JANG_VEC_BYTES (16, 32 or 64) is
// defined, so that no symbol is shared between levels. The operations that the quantizers use (all but
// multiply-add chains written as a*b+c in the layers) round alike at every width: same lanes, same bits.
#ifndef JANG_VEC_BYTES
#error "define JANG_VEC_BYTES before including generic/vec.inl"
#endif

constexpr int kLanes = JANG_VEC_BYTES / 4;

typedef float vf __attribute__((vector_size(JANG_VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(JANG_VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(JANG_VEC_BYTES)));

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
// As std::min and std::max on floats: the first argument if either is a NaN.
[[maybe_unused]] inline vf min(vf a, vf b) { return select(b < a, b, a); }
[[maybe_unused]] inline vf max(vf a, vf b) { return select(a < b, b, a); }
[[maybe_unused]] inline vf abs(vf a) { return (vf)((vi)a & splat_int(0x7fffffff)); }
[[maybe_unused]] inline vf to_float(vi a) { return __builtin_convertvector(a, vf); }
// Truncates; lanes outside int32 are undefined.
[[maybe_unused]] inline vi to_int(vf a) { return __builtin_convertvector(a, vi); }

// Half to even for every float: below 2^23 by adding and removing 2^23 with the sign of the argument, above it
// the value is an integer already. NaN and infinity pass through.
[[maybe_unused]] inline vf rint_even(vf a) {
  const vi sign = (vi)a & splat_int(static_cast<int32_t>(0x80000000u));
  const vf magic = (vf)((vi)splat(8388608.0f) | sign);
  const vf rounded = (a + magic) - magic;
  return select(abs(a) < splat(8388608.0f), (vf)(((vi)rounded & splat_int(0x7fffffff)) | sign), a);
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
