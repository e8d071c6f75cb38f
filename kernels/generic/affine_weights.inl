// Packed weights as a stream of registers: w = s*q + z in f32, straight from the map.
//
// Codes are a little-endian bit stream (docs/format.md), so 8 weights take exactly `bits` bytes and
// every 8 weights have the same layout. A register of kLanes weights comes from one load: the bytes
// that hold each field are spread to its lane, shifted down, and either used as the index into a
// register of the group's 2^bits values (as many as fit a register) or masked, converted and
// multiplied. Where lanes cannot be shifted by different counts (16-byte registers), the field is
// masked in place and the power of two is taken out of the scale instead.
//
//   operations per register: 3 to 4 where values come from a register, 6 otherwise.

// Where the fields of 16 consecutive weights lie: byte offset of the field's first byte, its shift.
template <int kBits>
struct FieldMap {
  uint8_t byte_index[16][4] = {};  // for a byte shuffle into 32-bit lanes; 0x80 gives zero
  int32_t shift[16] = {};
  int32_t mask[16] = {};   // in place, before the shift
  float unshift[16] = {};  // 2^-shift
  constexpr FieldMap() {
    for (int i = 0; i < 16; ++i) {
      const int bit = i * kBits;
      shift[i] = bit % 8;
      mask[i] = ((1 << kBits) - 1) << shift[i];
      unshift[i] = 1.0f / static_cast<float>(1 << shift[i]);
      byte_index[i][0] = static_cast<uint8_t>(bit / 8);
      byte_index[i][1] = static_cast<uint8_t>(shift[i] + kBits > 8 ? bit / 8 + 1 : 0x80);
      byte_index[i][2] = byte_index[i][3] = 0x80;
    }
  }
};
template <int kBits>
inline constexpr FieldMap<kBits> kFields{};

template <typename T>
inline T load_bits(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// take_weights() may read this many bytes behind the 4*kBits bytes of its 32 weights.
constexpr int kOverRead = 8;

#if defined(__x86_64__) && JANG_VEC_BYTES >= 32

// Scale and bias of one group, in the form that the registers are made with.
template <int kBits>
struct GroupValues {
  // A register that repeats the 2^kBits values serves as a table: its index is taken modulo kLanes,
  // so the bits above a field need no mask.
  static constexpr bool kTable = (1 << kBits) <= kLanes;
  vf scale_or_table, bias;

  GroupValues(float scale, float bias_) : scale_or_table(splat(scale)), bias(splat(bias_)) {
    if constexpr (kTable) {
      vf codes{};
      for (int i = 0; i < kLanes; ++i) codes[i] = static_cast<float>(i % (1 << kBits));
      scale_or_table = fma(scale_or_table, codes, bias);
    }
  }

  vf weights(vi fields) const {
    if constexpr (kTable) {
#if JANG_VEC_BYTES == 64
      return (vf)_mm512_permutexvar_ps((__m512i)fields, (__m512)scale_or_table);
#else
      return (vf)_mm256_permutevar8x32_ps((__m256)scale_or_table, (__m256i)fields);
#endif
    } else {
      constexpr int32_t kMask = (1 << kBits) - 1;
      return fma(to_float(kBits == 8 ? fields : fields & kMask), scale_or_table, bias);
    }
  }
};

#if JANG_VEC_BYTES == 64

// 16 weights: 2*kBits bytes.
template <int kBits>
inline vi load_fields(const uint8_t* p) {
  if constexpr (kBits == 8) {
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  } else if constexpr (kBits == 2) {
    const vi shift = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return (vi)_mm512_srlv_epi32(_mm512_set1_epi32(load_bits<int32_t>(p)), (__m512i)shift);
  } else {
    const __m512i bytes =
        kBits <= 4 ? _mm512_set1_epi64(load_bits<int64_t>(p))
                   : _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i spread =
        _mm512_shuffle_epi8(bytes, load_bits<__m512i>(kFields<kBits>.byte_index));
    return (vi)_mm512_srlv_epi32(spread, load_bits<__m512i>(kFields<kBits>.shift));
  }
}

#else

// 8 weights: kBits bytes.
template <int kBits>
inline vi load_fields(const uint8_t* p) {
  if constexpr (kBits == 8) {
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  } else if constexpr (kBits == 4) {
    const vi shift = {0, 4, 8, 12, 16, 20, 24, 28};
    return (vi)_mm256_srlv_epi32(_mm256_set1_epi32(load_bits<int32_t>(p)), (__m256i)shift);
  } else {
    const __m256i bytes = _mm256_set1_epi64x(load_bits<int64_t>(p));
    const __m256i spread =
        _mm256_shuffle_epi8(bytes, load_bits<__m256i>(kFields<kBits>.byte_index));
    return (vi)_mm256_srlv_epi32(spread, load_bits<__m256i>(kFields<kBits>.shift));
  }
}

#endif

// The 32 weights at p as 32/kLanes registers, handed to sink with their number as an Index.
template <int kBits, typename Sink>
[[gnu::always_inline]] inline void take_weights(const uint8_t* p, const GroupValues<kBits>& values,
                                                Sink&& sink) {
  unrolled<32 / kLanes>([&](auto i) __attribute__((always_inline)) {
    sink(i, values.weights(load_fields<kBits>(p + i.value * kLanes * kBits / 8)));
  });
}

#else

// Scale and bias of one group, in the form that the registers are made with.
template <int kBits>
struct GroupValues {
  vf scale[2], bias;  // the scale of lanes 0-3 and 4-7 of each 8 weights, times 2^-shift

  GroupValues(float scale_, float bias_) : bias(splat(bias_)) {
    for (int i = 0; i < 2; ++i) scale[i] = load(kFields<kBits>.unshift + 4 * i) * scale_;
  }
};

// Fields kFirst .. kFirst + 4 of the 8 in the low bytes of `bytes`, still shifted.
template <int kBits, int kFirst>
inline vi fields_in_place(const uint8_t* p) {
#if defined(__x86_64__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const vi spread =
      (vi)_mm_shuffle_epi8(bytes, load_bits<__m128i>(kFields<kBits>.byte_index[kFirst]));
#elif defined(__aarch64__)
  const uint8x16_t bytes = vcombine_u8(vld1_u8(p), vdup_n_u8(0));
  const vi spread = (vi)vqtbl1q_u8(bytes, load_bits<uint8x16_t>(kFields<kBits>.byte_index[kFirst]));
#else
  vi spread{};
  for (int i = 0; i < 4; ++i) {
    const uint8_t* index = kFields<kBits>.byte_index[kFirst + i];
    spread[i] = p[index[0]] | (index[1] == 0x80 ? 0 : p[index[1]] << 8);
  }
#endif
  return spread & load_bits<vi>(kFields<kBits>.mask + kFirst);
}

// The 32 weights at p as 8 registers, handed to sink with their number as an Index.
template <int kBits, typename Sink>
[[gnu::always_inline]] inline void take_weights(const uint8_t* p, const GroupValues<kBits>& values,
                                                Sink&& sink) {
  unrolled<8>([&](auto i) __attribute__((always_inline)) {
    constexpr int kHalf = i.value % 2;
    const vi fields = fields_in_place<kBits, 4 * kHalf>(p + i.value / 2 * kBits);
    sink(i, fma(to_float(fields), values.scale[kHalf], values.bias));
  });
}

#endif
