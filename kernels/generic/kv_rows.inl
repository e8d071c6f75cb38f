// Rows of a KV block as registers of floats, one reader per type of cache. A register starts at a
// multiple of kLanes channels; rows are padded, so it is always whole.
//
//   operations per register: f32 a load; f16 a converting load; bf16 load and shift; q8 widening
//   load and convert; q4 these, a mask or shift, and the group's scale and bias: 7.

// kLanes bytes widened to int32.
inline vi kv_int8(const uint8_t* p) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, vi);
#endif
}
inline vi kv_uint8(const uint8_t* p) {
#if defined(__x86_64__) && JANG_VEC_BYTES == 64
  return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__x86_64__) && JANG_VEC_BYTES == 32
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, vi);
#endif
}

inline uint32_t kv_word(const uint8_t* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

template <KvType kType>
struct KvRows {
  const uint8_t* rows;
  int64_t row_bytes;
  int64_t groups;  // of q4

  KvRows(const uint8_t* block, int64_t dim)
      : rows(block),
        row_bytes(kv_row_bytes(kType, dim)),
        groups(kv_padded(kType, dim) / kKvGroup) {}

  // Channels over which a reader's work can be shared: loops step by these and name the register
  // in between by a constant.
  static constexpr int kStep = kType == KvType::kQ4 ? kKvGroup : kLanes;

  // The register at channel first + kOffset, first a multiple of kStep and kOffset below it. Codes
  // without their scale for q8, which scores and weights are multiplied by instead.
  template <int kOffset = 0>
  vf load(int64_t row, int64_t first) const {
    const uint8_t* p = rows + row * row_bytes;
    if constexpr (kType == KvType::kF32) return load_as<FloatType::kF32>(p + first * 4);
    if constexpr (kType == KvType::kF16) return load_as<FloatType::kF16>(p + first * 2);
    if constexpr (kType == KvType::kBF16) return load_as<FloatType::kBF16>(p + first * 2);
    if constexpr (kType == KvType::kQ8) return to_float(kv_int8(p + first));
    if constexpr (kType == KvType::kQ4) {
      constexpr int kHalf = kKvGroup / 2;
      const vi bytes = kv_uint8(p + first / 2 + kOffset % kHalf);
      const vi codes = kOffset < kHalf ? bytes & 15 : bytes >> 4;
      const uint8_t* words = rows + kKvBlock * row_bytes + row * groups * 4;
      const vu word = kv_word(words + first / kKvGroup * 4) - vu{};
      return fma(to_float(codes), (vf)(word & 0xffff0000u), (vf)(word << 16));
    }
  }

  // [kKvBlock] factors of the rows; null where a row needs none.
  const uint8_t* scales() const {
    return kType == KvType::kQ8 ? rows + kKvBlock * row_bytes : nullptr;
  }
};

// As KvRows, over floats that were unpacked to scratch; `scales` stays that of the block.
struct UnpackedRows {
  const float* rows;
  int64_t stride;
  static constexpr int kStep = kLanes;
  template <int kOffset = 0>
  vf load(int64_t row, int64_t first) const {
    return load_as<FloatType::kF32>(reinterpret_cast<const uint8_t*>(rows + row * stride + first));
  }
};

// Calls f with the reader for a block of `type`.
template <typename F>
void with_kv_rows(KvType type, const uint8_t* block, int64_t dim, F&& f) {
  switch (type) {
    case KvType::kF32:
      return f(KvRows<KvType::kF32>(block, dim));
    case KvType::kF16:
      return f(KvRows<KvType::kF16>(block, dim));
    case KvType::kBF16:
      return f(KvRows<KvType::kBF16>(block, dim));
    case KvType::kQ8:
      return f(KvRows<KvType::kQ8>(block, dim));
    case KvType::kQ4:
      return f(KvRows<KvType::kQ4>(block, dim));
  }
}

// f(offset, register) for the registers of a row from `first`, a multiple of kStep: offset an
// Index<> of channels. kChannels of them, a multiple of kStep.
template <int kChannels, typename Rows, typename F>
[[gnu::always_inline]] inline void for_registers(const Rows& rows, int64_t row, int64_t first,
                                                 F&& f) {
  unrolled<kChannels / kLanes>([&](auto i) __attribute__((always_inline)) {
    constexpr int at = i.value * kLanes;
    f(i, rows.template load<at % Rows::kStep>(row, first + at / Rows::kStep * Rows::kStep));
  });
}
