// Quantized linear layers for up to kDecodeTokens tokens: rows one by one in address order, which
// is what the hardware prefetchers follow, each code unpacked once for all tokens.
//
// A row is a sequence of steps: the fewest columns that make whole registers of codes and whole
// groups. A step's dot products are left in 8 lanes, converted, multiplied by the group's factor
// (s times the activations' scale) and added to one of two sums in turn; lanes are added once per
// row. A step of several groups has their products in ascending lanes, so the factor is a vector.
// Factors are made for many groups at a time; what a group adds without its codes is added there.
//
//   operations per 64 weights at group 64: unpacking (int8_codes.inl), once; for each token 2
//   (AVX-VNNI) to 5 (AVX2; 15 at 8 bits) for the dot product, 2 to 3 to convert, scale and add, 1
//   for the metadata. Bound: memory at 2, 4 and 8 bits, between memory and unpacking at the others.

constexpr int64_t kDecodeTokens = 4;
// Hardware prefetchers stop at the end of a page, and lose sight of scales and biases, of which a
// row has a line or two.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kPrefetchMetadata = 4096;

// Lanes added in a fixed order.
inline float sum_of_lanes(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// kGroups consecutive factors, each in 8/kGroups lanes.
template <int kGroups>
inline __m256 spread_factors(const float* p) {
  if constexpr (kGroups == 1) {
    return _mm256_broadcast_ss(p);
  } else if constexpr (kGroups == 2) {
    const __m256d both = _mm256_broadcast_sd(reinterpret_cast<const double*>(p));
    return _mm256_permutevar_ps(_mm256_castpd_ps(both), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
  } else {
    const __m256 all = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
    return _mm256_permutevar_ps(all, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
  }
}

// Groups whose factors are made at a time.
constexpr int64_t kFactorGroups = 64;

// What groups [group, group + n) of a row are multiplied with and what they add without their dot
// products. n <= kFactorGroups; factors are made for whole registers, zero behind the row's last.
template <FloatType kType, int kTokens>
void make_factors(const AffineMatrix& w, const Int8Activations& x, float unit, int64_t row,
                  int64_t group, int64_t n, float (*factors)[kFactorGroups], __m256* rest) {
  const Metadata<kType> scales(w, w.scales), biases(w, w.biases);
  const __m256 inverse_unit = _mm256_set1_ps(1.0f / unit);
  const __m256 middle = _mm256_set1_ps(code_middle(w.bits));
  __m256 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = rest[t];
  for (int64_t i = 0; i < n; i += 8) {
    if (i % 16 == 0) {
      scales.prefetch(row, group + i, kPrefetchMetadata);
      biases.prefetch(row, group + i, kPrefetchMetadata);
    }
    const __m256 s = scales.eight(row, group + i);
    const __m256 z = biases.eight(row, group + i);
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int64_t at = t.value * x.group_stride + group + i;
      const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(x.scales + at), inverse_unit);
      _mm256_store_ps(factors[t.value] + i, _mm256_mul_ps(s, scale));
      const __m256 residual = _mm256_mul_ps(_mm256_loadu_ps(x.residuals + at), middle);
      sums[t.value] = _mm256_fmadd_ps(s, residual, sums[t.value]);
      sums[t.value] = _mm256_fmadd_ps(z, _mm256_loadu_ps(x.sums + at), sums[t.value]);
    });
  }
  for (int t = 0; t < kTokens; ++t) rest[t] = sums[t];
}

template <int kBits, int kGroup, int kTokens>
class DecodeRows {
 public:
  DecodeRows(const AffineMatrix& w, const Int8Activations& x)
      : matrix_(w), x_(x), bounds_(w), make_factors_(make_factors_for(w.metadata)) {}

  void run(float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) const {
    const int64_t groups = matrix_.columns / kGroup;
    for (int64_t row = row_begin; row < row_end; ++row) {
      alignas(32) Factors factors;
      __m256 rest[kTokens] = {};
      Sums sums = {};
      for (int64_t group = 0; group < groups; group += kFactorGroups) {
        const int64_t some = groups - group < kFactorGroups ? groups - group : kFactorGroups;
        make_factors_(matrix_, x_, Packed::kUnit, row, group, some, factors, rest);
        add_groups(row, group, some, factors, sums);
      }
      for (int t = 0; t < kTokens; ++t) {
        y[t * y_stride + row] =
            sum_of_lanes(_mm256_add_ps(_mm256_add_ps(sums[t][0], sums[t][1]), rest[t]));
      }
    }
  }

 private:
  using Packed = Codes<kBits>;
  static constexpr int kStep = kGroup > Packed::kColumns ? kGroup : Packed::kColumns;
  static constexpr int kStepBytes = kStep / 8 * kBits;
  static constexpr int kStepGroups = kStep / kGroup;
  using Sums = __m256[kTokens][2];
  using Factors = float[kTokens][kFactorGroups];
  using MakeFactors = decltype(&make_factors<FloatType::kF32, kTokens>);

  static MakeFactors make_factors_for(FloatType type) {
    return with_metadata_type(
        type, []<FloatType kType>() -> MakeFactors { return make_factors<kType, kTokens>; });
  }

  // Groups [group, group + n) of a row, n <= kFactorGroups.
  [[gnu::always_inline]] void add_groups(int64_t row, int64_t group, int64_t n,
                                         const Factors& factors, Sums& sums) const {
    const int64_t steps = (n + kStepGroups - 1) / kStepGroups;
    const uint8_t* p = matrix_.codes + (row * matrix_.columns + group * kGroup) / 8 * kBits;
    CodesNearEdge<kBits, kFactorGroups * kGroup> copy;
    if (!bounds_.hold<kBits>(p, steps * kStepBytes)) p = copy.take(p, bounds_);

    const int8_t* x = x_.codes + group * kGroup;
    int64_t i = 0;
    for (; i + 2 <= steps; i += 2) {
      for (int line = 0; line < 2 * kStepBytes; line += 64)
        __builtin_prefetch(p + i * kStepBytes + kPrefetchBytes + line);
      add_step<0>(p + i * kStepBytes, x + i * kStep, factors, i, sums);
      add_step<1>(p + (i + 1) * kStepBytes, x + (i + 1) * kStep, factors, i + 1, sums);
    }
    if (i < steps) add_step<0>(p + i * kStepBytes, x + i * kStep, factors, i, sums);
  }

  // Step `index` of its block of groups.
  template <int kSum>
  [[gnu::always_inline]] void add_step(const uint8_t* p, const int8_t* x, const Factors& factors,
                                       int64_t index, Sums& sums) const {
    __m256i codes[kStep / 32];
    unrolled<kStep / Packed::kColumns>([&](auto i) __attribute__((always_inline)) {
      const __m256i packed = Packed::gather(p + i.value * kGatherBytes<kBits>);
      unrolled<Packed::kParts>([&](auto part) __attribute__((always_inline)) {
        codes[i.value * Packed::kParts + part.value] = Packed::template part<part.value>(packed);
      });
    });
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const vi products = dot<kBits, kStep / 32>(codes, x + t.value * x_.code_stride);
      __m256& sum = sums[t.value][kSum];
      sum =
          _mm256_fmadd_ps((__m256)to_float(products),
                          spread_factors<kStepGroups>(factors[t.value] + index * kStepGroups), sum);
    });
  }

  const AffineMatrix& matrix_;
  const Int8Activations& x_;
  const CodeBounds bounds_;
  const MakeFactors make_factors_;
};
