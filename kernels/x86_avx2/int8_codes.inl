// Packed weights as registers of 32 unsigned codes, one a byte, in two steps, so that decode and
// tiles share them and tiles can transpose in between:
//
//   gather(p)         the packed bytes of kColumns weights as one register of 32-bit words, each
//                     the weights of kColumns/8 consecutive columns;
//   part<i>(packed)   register i of its kParts registers of codes, the positions 32*i .. 32*i+31 of
//                     activation_order(): the fields of a byte stay in the order they have there,
//                     so that a shift and a mask take them apart.
//
//   bits                        2     3     4     5     6     8
//   columns of one gather      128    64    64    32    32    32
//   operations for 64 weights  3.5    7     3    10    10     0    (12 at 5 and 6 bits without
//                                                                  AVX-VNNI), loads not counted
//
// A pair of 5- or 6-bit fields lies within 16 bits, at a bit offset that differs by lane. A byte
// shuffle brings these 16 bits to a lane, a multiplication by a power of two moves the pair to the
// top of its lane: the second field is then at the top of the high byte. A shift of the whole lane
// brings the first one to the top of the low byte, a blend takes each from where it is right. Codes
// of 3 bits are unpacked as half as many codes of 6 bits and parted last, which halves the cost.
//
// The low bits below the fields are masked away; moving the fields down over them would be one more
// operation. So codes come multiplied by kUnit, a power of two that callers take out of the scale,
// where the dot product has room for it.

// Where the pairs of kField-bit fields lie, for a load that begins kBefore bytes early: then the
// first 16 weights end, and the next 16 begin, at the border of the register's halves.
template <int kField>
struct PairMap {
  static constexpr int kBefore = 16 - 2 * kField;
  alignas(32) uint8_t byte_index[32] = {};
  alignas(32) uint16_t to_top[16] = {};
  constexpr PairMap() {
    for (int lane = 0; lane < 16; ++lane) {
      const int bit = lane % 8 * 2 * kField;
      const int byte = bit / 8 + (lane < 8 ? kBefore : 0);
      byte_index[2 * lane] = static_cast<uint8_t>(byte);
      byte_index[2 * lane + 1] = static_cast<uint8_t>(byte + 1);
      to_top[lane] = static_cast<uint16_t>(1 << (16 - 2 * kField - bit % 8));
    }
  }
};
template <int kField>
inline constexpr PairMap<kField> kPairs{};

inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

inline void store_bytes(uint8_t* p, __m256i v) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
}

// 32 fields, each at the top of its byte with bits of its neighbours below.
template <int kField>
inline __m256i fields_at_top(const uint8_t* p) {
  const __m256i pairs = _mm256_shuffle_epi8(load_bytes(p - PairMap<kField>::kBefore),
                                            load_bytes(kPairs<kField>.byte_index));
  const __m256i top = _mm256_mullo_epi16(pairs, load_bytes(kPairs<kField>.to_top));
  return _mm256_blendv_epi8(_mm256_srli_epi16(top, 8 - kField), top,
                            _mm256_set1_epi16(static_cast<int16_t>(0xff00)));
}

inline __m256i mask_bytes(__m256i v, int mask) {
  return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(mask)));
}

inline __m256i low_half_bytes(__m256i v) { return mask_bytes(v, 15); }
inline __m256i high_half_bytes(__m256i v) { return mask_bytes(_mm256_srli_epi16(v, 4), 15); }

#if defined(__AVXVNNI__)
inline constexpr bool kWideSums = true;  // dot products do not pass through 16 bits
#else
inline constexpr bool kWideSums = false;
#endif

// kBefore and kAfter: bytes that gather() reads outside the packed ones.
template <int kBits>
struct Codes;

template <>
struct Codes<2> {
  static constexpr int kColumns = 128, kParts = 4, kBefore = 0, kAfter = 0, kUnit = 1;
  static __m256i gather(const uint8_t* p) { return load_bytes(p); }
  template <int kPart>
  static __m256i part(__m256i packed) {
    return mask_bytes(_mm256_srli_epi16(packed, 2 * kPart), 3);
  }
};

template <>
struct Codes<3> {
  static constexpr int kColumns = 64, kParts = 2, kBefore = 4, kAfter = 4, kUnit = 4;
  static __m256i gather(const uint8_t* p) { return fields_at_top<6>(p); }
  template <int kPart>
  static __m256i part(__m256i packed) {
    return mask_bytes(_mm256_srli_epi16(packed, 3 * kPart), 7 * kUnit);
  }
};

template <>
struct Codes<4> {
  static constexpr int kColumns = 64, kParts = 2, kBefore = 0, kAfter = 0, kUnit = 1;
  static __m256i gather(const uint8_t* p) { return load_bytes(p); }
  template <int kPart>
  static __m256i part(__m256i packed) {
    return kPart == 0 ? low_half_bytes(packed) : high_half_bytes(packed);
  }
};

template <int kBits>
struct PairedCodes {
  static constexpr int kColumns = 32, kParts = 1;
  static constexpr int kBefore = PairMap<kBits>::kBefore, kAfter = kBefore;
  static constexpr int kLowest = 8 - kBits;
  static constexpr int kUnit = kWideSums ? 1 << kLowest : 1;
  static __m256i gather(const uint8_t* p) {
    const __m256i fields = fields_at_top<kBits>(p);
    if constexpr (kWideSums) return mask_bytes(fields, 0xff << kLowest);
    return mask_bytes(_mm256_srli_epi16(fields, kLowest), 0xff >> kLowest);
  }
  template <int>
  static __m256i part(__m256i packed) {
    return packed;
  }
};
template <>
struct Codes<5> : PairedCodes<5> {};
template <>
struct Codes<6> : PairedCodes<6> {};

template <>
struct Codes<8> {
  static constexpr int kColumns = 32, kParts = 1, kBefore = 0, kAfter = 0, kUnit = 1;
  static __m256i gather(const uint8_t* p) { return load_bytes(p); }
  template <int>
  static __m256i part(__m256i packed) {
    return packed;
  }
};

template <int kBits>
inline constexpr int kGatherBytes = Codes<kBits>::kColumns / 8 * kBits;

// The codes' tensor, which wide loads must not leave.
struct CodeBounds {
  const uint8_t* begin;
  const uint8_t* end;

  explicit CodeBounds(const AffineMatrix& w)
      : begin(w.codes), end(w.codes + w.rows * w.columns / 8 * w.bits) {}

  // Whether gather() may read all of `bytes` bytes at p.
  template <int kBits>
  bool hold(const uint8_t* p, int64_t bytes) const {
    return p - begin >= Codes<kBits>::kBefore && end - p >= bytes + Codes<kBits>::kAfter;
  }
};

// Codes at an end of the tensor, kColumns of them at most, where gather() may read around them.
template <int kBits, int kColumns>
class CodesNearEdge {
 public:
  [[gnu::noinline]] const uint8_t* take(const uint8_t* p, const CodeBounds& bounds) {
    constexpr int kBytes = kColumns / 8 * kBits;
    const int64_t inside = bounds.end - p;
    const int64_t n = inside < kBytes ? inside : kBytes;
    uint8_t* copy = bytes_ + Codes<kBits>::kBefore;
    __builtin_memcpy(copy, p, static_cast<std::size_t>(n));
    for (int64_t i = n; i < kBytes; ++i) copy[i] = 0;
    return copy;
  }

 private:
  uint8_t bytes_[Codes<kBits>::kBefore + kColumns / 8 * kBits + Codes<kBits>::kAfter];
};
