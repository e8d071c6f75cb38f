// Scales and biases of one row, eight groups at a time, as floats.
//
//   operations per 8 groups: 1 (f16), 2 (bf16), none (f32); one more for the last few of a row.

template <FloatType kType>
inline constexpr int kMetadataBytes = kType == FloatType::kF32 ? 4 : 2;

template <FloatType kType>
inline __m256 widen_groups(const uint8_t* p) {
  if constexpr (kType == FloatType::kF32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  } else {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (kType == FloatType::kF16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
}

// The first n of 8 lanes all ones; n in [0, 8].
inline __m256i first_lanes(int64_t n) {
  alignas(32) static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return load_bytes(kMasks + 8 - n);
}

// n < 8 groups and zeros behind them. What the wide load finds there belongs to the next row and
// may be anything: it is masked, not multiplied by zero.
template <FloatType kType>
inline __m256 widen_some_groups(const uint8_t* p, int64_t n, const uint8_t* end) {
  constexpr int kBytes = kMetadataBytes<kType>;
  uint8_t copy[8 * kBytes] = {};
  if (end - p < 8 * kBytes) {
    __builtin_memcpy(copy, p, static_cast<std::size_t>(n * kBytes));
    p = copy;
  }
  return _mm256_and_ps(widen_groups<kType>(p), _mm256_castsi256_ps(first_lanes(n)));
}

// One of the two tensors of metadata, [rows][groups].
template <FloatType kType>
struct Metadata {
  const uint8_t* data;
  const uint8_t* end;
  int64_t groups;

  Metadata(const AffineMatrix& w, const uint8_t* tensor)
      : data(tensor),
        end(tensor + w.rows * (w.columns / w.group) * kMetadataBytes<kType>),
        groups(w.columns / w.group) {}

  // Asks for what lies `ahead` bytes behind that group.
  [[gnu::always_inline]] void prefetch(int64_t row, int64_t group, int64_t ahead) const {
    __builtin_prefetch(data + (row * groups + group) * kMetadataBytes<kType> + ahead);
  }

  // Groups [group, group + 8) of the row, group < groups; zeros for those it does not have.
  [[gnu::always_inline]] __m256 eight(int64_t row, int64_t group) const {
    const uint8_t* p = data + (row * groups + group) * kMetadataBytes<kType>;
    const int64_t n = groups - group;
    return n >= 8 ? widen_groups<kType>(p) : widen_some_groups<kType>(p, n, end);
  }
};

// f.template operator()<kType>() with the type of the metadata as a constant.
template <typename F>
inline auto with_metadata_type(FloatType type, F&& f) {
  switch (type) {
    case FloatType::kF32:
      return f.template operator()<FloatType::kF32>();
    case FloatType::kF16:
      return f.template operator()<FloatType::kF16>();
    case FloatType::kBF16:
      break;
  }
  return f.template operator()<FloatType::kBF16>();
}
