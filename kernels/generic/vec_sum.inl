// Horizontal reductions: sums of lanes in one fixed tree (lane i + lane i + half, halves shrinking
// to one), for a register and for four at once, and maxima.
//
// sum_lanes() of vec.inl is that tree written with scalars; these give the same bits from shuffles.

[[maybe_unused]] inline float sum_tree(vf v) {
#if defined(__x86_64__)
#if JANG_VEC_BYTES == 64
  const __m512 zmm = (__m512)v;
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(zmm), _mm512_extractf32x8_ps(zmm, 1));
#elif JANG_VEC_BYTES == 32
  const __m256 half = (__m256)v;
#endif
#if JANG_VEC_BYTES >= 32
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  const __m128 four = (__m128)v;
#endif
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  return sum_lanes(v);
#endif
}

// out[i] = sum_tree(v_i).
[[maybe_unused]] inline void sum_tree4(vf a, vf b, vf c, vf d, float* out) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  constexpr int kLow = 0x44, kHigh = 0xee, kEven = 0x88, kOdd = 0xdd;
  const __m512 za = (__m512)a, zb = (__m512)b, zc = (__m512)c, zd = (__m512)d;
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(za, zb, kLow),  // a a b b, 4 lanes each
                                  _mm512_shuffle_f32x4(za, zb, kHigh));
  const __m512 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(zc, zd, kLow), _mm512_shuffle_f32x4(zc, zd, kHigh));
  __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, kEven),  // a b c d
                              _mm512_shuffle_f32x4(ab, cd, kOdd));
  four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xb1));
  const __m512i first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, four)));
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  const __m256 ya = (__m256)a, yb = (__m256)b, yc = (__m256)c, yd = (__m256)d;
  const __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(ya, yb, 0x20),  // a b
                                  _mm256_permute2f128_ps(ya, yb, 0x31));
  const __m256 cd =
      _mm256_add_ps(_mm256_permute2f128_ps(yc, yd, 0x20), _mm256_permute2f128_ps(yc, yd, 0x31));
  __m256 two = _mm256_add_ps(_mm256_unpacklo_ps(ab, cd), _mm256_unpackhi_ps(ab, cd));  // acac bdbd
  two = _mm256_add_ps(two, _mm256_permute_ps(two, 0x4e));
  _mm_storeu_ps(out, _mm_unpacklo_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
#elif defined(__x86_64__)
  const __m128 xa = (__m128)a, xb = (__m128)b, xc = (__m128)c, xd = (__m128)d;
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(xa, xb), _mm_unpackhi_ps(xa, xb));  // abab
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(xc, xd), _mm_unpackhi_ps(xc, xd));
  _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
#else
  out[0] = sum_tree(a);
  out[1] = sum_tree(b);
  out[2] = sum_tree(c);
  out[3] = sum_tree(d);
#endif
}

// The largest lane; NaN lanes are passed over as in max(). -inf if there is nothing else.
[[maybe_unused]] inline float max_lanes(vf v) {
  const vf numbers = max(splat(-__builtin_inff()), v);
#if defined(__x86_64__)
#if JANG_VEC_BYTES == 64
  const __m512 zmm = (__m512)numbers;
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(zmm), _mm512_extractf32x8_ps(zmm, 1));
#elif JANG_VEC_BYTES == 32
  const __m256 half = (__m256)numbers;
#endif
#if JANG_VEC_BYTES >= 32
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  const __m128 four = (__m128)numbers;
#endif
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#elif defined(__aarch64__)
  return vmaxvq_f32((float32x4_t)numbers);
#endif
}
