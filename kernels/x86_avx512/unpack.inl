// 64 packed weights to 64 bytes in a register, any width, in three operations: a byte shuffle gives
// every eight weights a 64-bit lane of their own, a multishift drops each field into its byte, a
// mask removes the neighbours. It works because the last field ends at bit 8*bits <= 64.
//
// The bytes come back in the order of the columns, so activations need no order of their own. Codes
// of 2 and 4 bits are split by shifts where they are used.

constexpr int kStep = 64;  // weights of one register of codes

// Widths whose bytes hold whole codes, taken apart by a shift and a mask: byte i of every 64 has
// the phases p of column kPhases * i + p, which is the order of their activations (kWide...).
template <int kBits>
inline constexpr bool kIsWide = kBits == 2 || kBits == 4;
template <int kBits>
inline constexpr int kPhases = 8 / kBits;

template <int kBits, int kPhase>
[[gnu::always_inline]] inline __m512i phase_codes(__m512i packed) {
  const __m512i low = kPhase == 0 ? packed : _mm512_srli_epi32(packed, kBits * kPhase);
  return _mm512_and_si512(low, _mm512_set1_epi8((1 << kBits) - 1));
}

// Where activation `column` stands; a multiple of 4 * kPhases.
template <int kBits>
constexpr int64_t wide_position(int64_t column) {
  constexpr int64_t kBlock = 64 * kPhases<kBits>;
  return column / kBlock * kBlock + column % kBlock / kPhases<kBits>;
}

template <int kBits>
struct UnpackTables {
  uint8_t index[64] = {};  // qword j takes its bytes from j * kBits on
  uint8_t shift[64] = {};
  constexpr UnpackTables() {
    for (int i = 0; i < 64; ++i) {
      index[i] = static_cast<uint8_t>(i / 8 * kBits + i % 8);
      shift[i] = static_cast<uint8_t>(i % 8 * kBits);
    }
  }
};
template <int kBits>
inline constexpr UnpackTables<kBits> kUnpack{};

/// Lets through the bytes of `weights` weights, at most kStep: loads never touch the others.
inline __mmask64 code_bytes_mask(int64_t weights, int bits) {
  return _cvtu64_mask64(~uint64_t{0} >> (64 - weights / 8 * bits));
}

template <int kBits>
[[gnu::always_inline]] inline __m512i unpack_bytes(__m512i packed) {
  if constexpr (kBits == 8) {
    return packed;
  } else {
    const __m512i spread =
        _mm512_permutexvar_epi8(_mm512_loadu_si512(kUnpack<kBits>.index), packed);
    const __m512i fields =
        _mm512_multishift_epi64_epi8(_mm512_loadu_si512(kUnpack<kBits>.shift), spread);
    return _mm512_and_si512(fields, _mm512_set1_epi8((1 << kBits) - 1));
  }
}

template <int kBits>
[[gnu::always_inline]] inline __m512i unpack_step(const uint8_t* p, __mmask64 mask) {
  return unpack_bytes<kBits>(_mm512_maskz_loadu_epi8(mask, p));
}

/// A whole step by a load of the next larger register: reads up to kMostOverRead bytes behind the 8
/// * kBits, and saves the operation that a mask costs.
constexpr int kMostOverRead = 24;
template <int kBits>
[[gnu::always_inline]] inline __m512i unpack_over_read(const uint8_t* p) {
  if constexpr (kBits <= 4) {
    return unpack_bytes<kBits>(
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  } else {
    return unpack_bytes<kBits>(_mm512_loadu_si512(p));
  }
}

/// Up to 16 scales or biases from `first` on as floats, zeros behind them.
[[gnu::always_inline]] inline __m512 load_metadata16(const uint8_t* base, FloatType type,
                                                     int64_t first, int64_t count) {
  const auto mask = static_cast<__mmask16>(count >= 16 ? 0xffff : (1 << count) - 1);
  if (type == FloatType::kF32) return _mm512_maskz_loadu_ps(mask, base + 4 * first);
  const __m256i halves = _mm256_maskz_loadu_epi16(mask, base + 2 * first);
  if (type == FloatType::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
