// What the loops with rows as lanes share: 4 codes of 16 rows out of words that were turned around,
// scales and biases turned around likewise, and where the activations of 4 columns stand.

constexpr int kBlockLanes = 32;  // rows of a block

// Whole words that hold whole steps of 4 columns.
template <int kBits>
struct WordUnit {
  static constexpr int kWords = kBits == 6 ? 3 : kBits;
  static constexpr int kColumns = kWords * 32 / kBits;
  static constexpr int kSteps = kColumns / 4;
  // Of a step's activations behind those of its unit, in the order of vnni_activation_order(kBits).
  static constexpr int offset(int step) {
    if (!kIsWide<kBits>) return 4 * step;
    return step / kPhases<kBits> * 4 + step % kPhases<kBits> * 64;
  }
  static constexpr int kPassed = kIsWide<kBits> ? 4 * kWords : kColumns;  // from a unit to the next
  // Of the first unit of a group; a group lies within one block of the order.
  static constexpr int64_t group_offset(int64_t group, int group_size) {
    const int64_t column = group * group_size;
    return kIsWide<kBits> ? wide_position<kBits>(column) : column;
  }
};

// The four codes that begin at bit kOffset of every word, one a byte.
template <int kBits, int kOffset>
[[gnu::always_inline]] inline __m512i four_codes(__m512i words) {
  if constexpr (kBits == 8) return words;
  constexpr uint64_t kLow = uint64_t{kOffset} | uint64_t{kOffset + kBits} << 8 |
                            uint64_t{kOffset + 2 * kBits} << 16 |
                            uint64_t{kOffset + 3 * kBits} << 24;
  constexpr uint64_t kSelect = kLow | (kLow + 0x20202020) << 32;
  const __m512i fields =
      _mm512_multishift_epi64_epi8(_mm512_set1_epi64(static_cast<int64_t>(kSelect)), words);
  return _mm512_and_si512(fields, _mm512_set1_epi8(static_cast<char>((1 << kBits) - 1)));
}

// Step kStep of 16 rows whose words begin at `words`, the words kStride bytes apart.
template <int kBits, int kStep, int kStride>
[[gnu::always_inline]] inline __m512i step_codes(const uint8_t* words) {
  if constexpr (kIsWide<kBits>) {
    const uint8_t* word = words + kStep / kPhases<kBits> * kStride;
    return phase_codes<kBits, kStep % kPhases<kBits>>(_mm512_load_si512(word));
  } else {
    constexpr int kBit = 4 * kBits * kStep, kWord = kBit / 32, kOffset = kBit % 32;
    const __m512i first = _mm512_load_si512(words + kWord * kStride);
    if constexpr (kOffset + 4 * kBits <= 32) {
      return four_codes<kBits, kOffset>(first);
    } else {
      const __m512i second = _mm512_load_si512(words + (kWord + 1) * kStride);
      return four_codes<kBits, 0>(_mm512_shrdi_epi32(first, second, kOffset));
    }
  }
}

// The low or the high halves of words as floats.
template <FloatType kType, bool kHigh>
[[gnu::always_inline]] inline __m512 halves_to_float(__m512i words) {
  if constexpr (kType == FloatType::kF16) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(kHigh ? _mm512_srli_epi32(words, 16) : words));
  } else if constexpr (kHigh) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff)));
  } else {
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
}

// Up to 16 groups of 16 rows, of row r from first[r] on, into lanes `half`.
template <FloatType kType>
void turn_metadata(const AffineMatrix& w, const int64_t (&first)[16], int64_t groups, int half,
                   float (*scales)[kBlockLanes], float (*biases)[kBlockLanes]) {
  const auto mask = static_cast<__mmask16>(groups >= 16 ? 0xffff : (1 << groups) - 1);
  const int64_t some = groups < 16 ? groups : 16;
  const int lane = 16 * half;
  if constexpr (kType == FloatType::kF32) {
    __m512i s[16], z[16];
    for (int r = 0; r < 16; ++r) {
      s[r] = _mm512_maskz_loadu_epi32(mask, w.scales + 4 * first[r]);
      z[r] = _mm512_maskz_loadu_epi32(mask, w.biases + 4 * first[r]);
    }
    transpose16(s);
    transpose16(z);
    for (int64_t i = 0; i < some; ++i) {
      _mm512_store_si512(scales[i] + lane, s[i]);
      _mm512_store_si512(biases[i] + lane, z[i]);
    }
  } else {
    // Words of two scales, and behind them words of two biases.
    __m512i pairs[16];
    for (int r = 0; r < 16; ++r) {
      const __m256i s = _mm256_maskz_loadu_epi16(mask, w.scales + 2 * first[r]);
      const __m256i z = _mm256_maskz_loadu_epi16(mask, w.biases + 2 * first[r]);
      pairs[r] = _mm512_inserti64x4(_mm512_castsi256_si512(s), z, 1);
    }
    transpose16(pairs);
    for (int64_t i = 0; i < some; i += 2) {
      const __m512i s = pairs[i / 2], z = pairs[8 + i / 2];
      _mm512_store_ps(scales[i] + lane, halves_to_float<kType, false>(s));
      _mm512_store_ps(biases[i] + lane, halves_to_float<kType, false>(z));
      if (i + 1 == some) break;
      _mm512_store_ps(scales[i + 1] + lane, halves_to_float<kType, true>(s));
      _mm512_store_ps(biases[i + 1] + lane, halves_to_float<kType, true>(z));
    }
  }
}

template <FloatType kType>
void turn_block_metadata(const AffineMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                         int64_t columns, float (*scales)[kBlockLanes],
                         float (*biases)[kBlockLanes]) {
  const int64_t groups = columns / w.group;
  for (int half = 0; half < 2; ++half) {
    for (int64_t g = 0; g < groups; g += 16) {
      int64_t first[16];
      for (int r = 0; r < 16; ++r) {
        const int64_t row = row_in_range(first_row + 16 * half + r, row_end);
        first[r] = (row * w.columns + begin) / w.group + g;
      }
      turn_metadata<kType>(w, first, groups - g, half, scales + g, biases + g);
    }
  }
}

// Of kBlockLanes rows and `columns` columns from `begin` on: [group][row].
inline void turn_block_metadata(const AffineMatrix& w, int64_t first_row, int64_t row_end,
                                int64_t begin, int64_t columns, float (*scales)[kBlockLanes],
                                float (*biases)[kBlockLanes]) {
  switch (w.metadata) {
    case FloatType::kF32:
      return turn_block_metadata<FloatType::kF32>(w, first_row, row_end, begin, columns, scales,
                                                  biases);
    case FloatType::kF16:
      return turn_block_metadata<FloatType::kF16>(w, first_row, row_end, begin, columns, scales,
                                                  biases);
    case FloatType::kBF16:
      return turn_block_metadata<FloatType::kBF16>(w, first_row, row_end, begin, columns, scales,
                                                   biases);
  }
}

// Sums of a block's rows into their places in y.
inline void write_block(const float (*sums)[kBlockLanes], int64_t tokens, int64_t first_row,
                        int64_t row_end, float* y, int64_t y_stride) {
  const int64_t rows = row_end - first_row < kBlockLanes ? row_end - first_row : kBlockLanes;
  const __mmask32 mask = ~uint32_t{0} >> (kBlockLanes - rows);
  for (int64_t t = 0; t < tokens; ++t) {
    float* out = y + t * y_stride + first_row;
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), _mm512_load_ps(sums[t]));
    _mm512_mask_storeu_ps(out + 16, static_cast<__mmask16>(mask >> 16),
                          _mm512_load_ps(sums[t] + 16));
  }
}
