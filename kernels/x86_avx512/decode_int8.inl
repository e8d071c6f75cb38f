// Linear layers on int8 activations for up to 4 tokens: one row after another, in address order,
// which is what the hardware prefetchers follow; a register of unpacked codes serves all tokens.
//
//   a step, 64 weights:  1 load + 3 operations to unpack (none at 8 bits), then a token 1 dot
//                        product of 64, 1 conversion, 1 multiply-add by the group's scale (g = 128:
//                        half of the last two). About 2.1 cycles on cores with two vector pipes.
//   2 bits, 256 weights: 1 load + 7 operations to unpack, then a token 4 dot products, 1
//                        conversion, 1 permutation of scales, 1 multiply-add: 3.5 operations per 64
//                        weights in the place of 6.
//   4 bits, 128 weights: 1 load + 3 operations to unpack, then a token 2 dot products and 3 as
//                        before: 4 per 64 weights.
//   16 groups:           2 loads, 2 conversions, and a token 1 multiplication of the scales and 2
//                        multiply-adds for the biases and the residuals.
//   a row:               one horizontal sum a token.
//
// Limit: memory. At 64 weights in 2.1 cycles a core asks for 55 (3 bits) to 140 (8 bits) GB/s, more
// than it is given.
//
// Order of sums: unit i of a row is added into chain i % 4, lanes and chains are joined at the end,
// for any number of tokens of this class.

constexpr int kDecodeTokens = 4;
constexpr int kChains = 4;
// Bytes. Hardware prefetchers stop at the end of a page, and lose sight of scales and biases, of
// which a row has a line or two: asking for these early is worth a fifth of the speed at 2 bits.
constexpr int kMetadataAhead = 4096;
// Codes of 2 and 3 bits, which a core takes in more slowly than memory gives them, are asked for
// too: up to 15 % faster on Zen 4. Wider ones pass so fast that lines on their way would fill the
// buffers of L1; left to the hardware they reach the speed of plain loads, 8 bits a quarter more
// than when asked for 8 KiB ahead.
constexpr int kCodesAhead = 1536;
template <int kBits>
inline constexpr bool kAsksForCodes = kBits < 4;

// Locals of the row loop: registers, as long as every index into them is a constant.
template <int kTokens>
using RowSums = __m512[kTokens][kChains];

constexpr int kSpanGroups = 8 * kGroupBlock;

// What a span of a row, kSpanGroups groups, needs beside codes. It is made one span ahead: a load
// cannot take its bytes from a wide store that is still on its way.
template <int kTokens>
struct SpanHead {
  alignas(64) float scale[kTokens][kSpanGroups];  // s * d
  __m512 rest[kTokens];                           // z * X + s * mid * u, summed over 16 groups each
};

// What one integer dot product covers: a group or two, unpacked by unpack.inl.
template <int kBits, int kGroup>
struct Unit {
  static constexpr int kRegisters = kGroup >= kStep ? kGroup / kStep : 1;
  static constexpr int kWeights = kRegisters * kStep;
  static constexpr int kBytes = kWeights / 8 * kBits;
  using Codes = __m512i[kRegisters];

  // kMasked: reads nothing behind the unit.
  template <bool kMasked>
  [[gnu::always_inline]] static void load(const uint8_t* p, Codes& codes) {
    unrolled<kRegisters>([&](auto i) __attribute__((always_inline)) {
      const uint8_t* at = p + i.value * (kStep / 8 * kBits);
      codes[i.value] = kMasked ? unpack_step<kBits>(at, code_bytes_mask(kStep, kBits))
                               : unpack_over_read<kBits>(at);
    });
  }
  // The last step of a row is half empty where groups of 32 are odd in number.
  [[gnu::always_inline]] static void load_part(const uint8_t* p, int64_t weights, Codes& codes) {
    codes[0] = unpack_step<kBits>(p, code_bytes_mask(weights, kBits));
  }
  // The scale of its group for each lane of the dot product of unit `index`.
  [[gnu::always_inline]] static __m512 scales(const float* scales, int64_t index) {
    if constexpr (kGroup >= kStep) {
      return _mm512_set1_ps(scales[index]);
    } else {
      const __m512 low = _mm512_set1_ps(scales[2 * index]);
      return _mm512_mask_broadcastss_ps(low, 0xff00, _mm_load_ss(&scales[2 * index + 1]));
    }
  }
};

// Codes of 2 and 4 bits: a register of packed bytes holds four or two registers of codes. A lane
// has neighbouring columns.
template <int kBits, int kGroup>
requires kIsWide<kBits>
struct Unit<kBits, kGroup> {
  static constexpr int kRegisters = kPhases<kBits>;
  static constexpr int kWeights = kRegisters * kStep;
  static constexpr int kBytes = 64;
  static constexpr int kGroups = kWeights / kGroup;
  using Codes = __m512i[kRegisters];

  [[gnu::always_inline]] static void split(__m512i packed, Codes& codes) {
    __asm__("" : "+v"(packed));  // compilers would load it once for each phase
    unrolled<kRegisters>([&](auto i) __attribute__((always_inline)) {
      codes[i.value] = phase_codes<kBits, i.value>(packed);
    });
  }
  template <bool kMasked>
  [[gnu::always_inline]] static void load(const uint8_t* p, Codes& codes) {
    split(_mm512_loadu_si512(p), codes);
  }
  [[gnu::always_inline]] static void load_part(const uint8_t* p, int64_t weights, Codes& codes) {
    split(_mm512_maskz_loadu_epi8(code_bytes_mask(weights, kBits), p), codes);
  }
  [[gnu::always_inline]] static __m512 scales(const float* scales, int64_t index) {
    const float* first = scales + kGroups * index;
    if constexpr (kGroups == 1) return _mm512_set1_ps(*first);
    constexpr int kGroupLanes = 16 / kGroups;
    const __m512i group_of_lane =
        _mm512_srli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                          kGroupLanes == 8   ? 3
                          : kGroupLanes == 4 ? 2
                                             : 1);
    __m256 some;
    if constexpr (kGroups == 8) {
      some = _mm256_loadu_ps(first);
    } else if constexpr (kGroups == 4) {
      some = _mm256_castps128_ps256(_mm_loadu_ps(first));
    } else {
      some = _mm256_castps128_ps256(
          _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(first))));
    }
    return _mm512_permutexvar_ps(group_of_lane, _mm512_castps256_ps512(some));
  }
};

template <int kBits, int kGroup, int kTokens>
struct RowDecoder {
  using U = Unit<kBits, kGroup>;
  static constexpr int64_t kSpan = int64_t{kSpanGroups} * kGroup;  // columns
  using Head = SpanHead<kTokens>;

  const AffineMatrix w;
  const Int8Activations x;

  [[gnu::always_inline]] void make_head(int64_t row, int64_t begin, Head& head) const {
    const int64_t first = begin / kGroup;
    const int64_t left = w.columns / kGroup - first;
    const int64_t groups = left < kSpanGroups ? left : kSpanGroups;
    const int64_t at = row * (w.columns / kGroup) + first;
    // Copies: the stores below may alias anything, members included.
    const uint8_t *const scales = w.scales, *const biases = w.biases;
    const FloatType type = w.metadata;
    const int64_t stride = x.group_stride;
    const float* const d = x.scales + first;
    const float* const sums = x.sums + first;
    const float* const residuals = x.residuals + first;
    const __m512 mid = _mm512_set1_ps(code_middle(kBits));
    __m512 bias_part[kTokens], middle_part[kTokens];
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      bias_part[t.value] = middle_part[t.value] = _mm512_setzero_ps();
    });
    const int64_t size = type == FloatType::kF32 ? 4 : 2;
    for (int64_t g = 0; g < groups; g += kGroupBlock) {
      __builtin_prefetch(scales + (at + g) * size + kMetadataAhead);
      __builtin_prefetch(biases + (at + g) * size + kMetadataAhead);
      const __m512 s = load_metadata16(scales, type, at + g, groups - g);
      const __m512 z = load_metadata16(biases, type, at + g, groups - g);
      const __m512 middle = _mm512_mul_ps(s, mid);
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        constexpr int kT = t.value;
        const int64_t from = kT * stride + g;
        _mm512_store_ps(head.scale[kT] + g, _mm512_mul_ps(s, _mm512_loadu_ps(d + from)));
        bias_part[kT] = _mm512_fmadd_ps(z, _mm512_loadu_ps(sums + from), bias_part[kT]);
        middle_part[kT] =
            _mm512_fmadd_ps(middle, _mm512_loadu_ps(residuals + from), middle_part[kT]);
      });
    }
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      head.rest[t.value] = _mm512_add_ps(bias_part[t.value], middle_part[t.value]);
    });
    // Broadcasts come out of memory for free; compilers that see the stores make shuffles of them.
    __asm__("" : "+m"(head));
  }

  // A register of unpacked codes serves all tokens; `index` counts units within the span.
  template <int kChain>
  [[gnu::always_inline]] void add(const typename U::Codes& codes, int64_t column, int64_t index,
                                  const Head& head, RowSums<kTokens>& sum) const {
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      __m512i dots = _mm512_setzero_si512();
      const int8_t* at = x.codes + t.value * x.code_stride + column;
      unrolled<U::kRegisters>([&](auto i) __attribute__((always_inline)) {
        dots = _mm512_dpbusd_epi32(dots, codes[i.value], _mm512_loadu_si512(at + i.value * kStep));
      });
      __m512& total = sum[t.value][kChain];
      total =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), U::scales(head.scale[t.value], index), total);
    });
  }

  template <int kChain, bool kMasked>
  [[gnu::always_inline]] void whole_unit(const uint8_t* p, int64_t column, int64_t index,
                                         const Head& head, RowSums<kTokens>& sum) const {
    if constexpr (kAsksForCodes<kBits>) {
      // One prefetch a line, or a little more often.
      constexpr int kAt = kChain * U::kBytes, kEach = U::kBytes < 64 ? U::kBytes : 64;
      static_assert(U::kBytes <= 64);
      if constexpr (kAt % 64 < kEach) __builtin_prefetch(p + kCodesAhead);
    }
    typename U::Codes codes;
    U::template load<kMasked>(p, codes);
    add<kChain>(codes, column, index, head, sum);
  }

  // Adds the columns of a span from `begin` on.
  [[gnu::always_inline]] void add_span(int64_t row, int64_t begin, const Head& head,
                                       RowSums<kTokens>& sum) const {
    const int64_t row_bytes = w.columns / 8 * kBits;
    const uint8_t* p = w.codes + row * row_bytes + begin / 8 * kBits;
    const int64_t left = w.columns - begin;
    const int64_t columns = left < kSpan ? left : kSpan;
    const int64_t units = columns / U::kWeights;
    // Where no other row follows, the last unit is loaded through a mask.
    const bool last = (w.rows - 1 - row) * row_bytes < kMostOverRead;
    const int64_t open_units = last ? units - 1 : units;
    int64_t u = 0;
    for (; u + kChains <= open_units; u += kChains) {
      unrolled<kChains>([&](auto i) __attribute__((always_inline)) {
        whole_unit<i.value, false>(p + i.value * U::kBytes, begin + (u + i.value) * U::kWeights,
                                   u + i.value, head, sum);
      });
      p += kChains * U::kBytes;
    }
    for (; u < units; ++u, p += U::kBytes)
      whole_unit<0, true>(p, begin + u * U::kWeights, u, head, sum);
    if (columns % U::kWeights != 0) {
      typename U::Codes codes{};
      U::load_part(p, columns % U::kWeights, codes);
      add<0>(codes, begin + u * U::kWeights, u, head, sum);
    }
  }

  [[gnu::always_inline]] void run(float* y, int64_t y_stride, int64_t row_begin,
                                  int64_t row_end) const {
    if (row_begin >= row_end) return;
    Head heads[2];
    Head *head = &heads[0], *next = &heads[1];
    make_head(row_begin, 0, *head);
    for (int64_t row = row_begin; row < row_end; ++row) {
      RowSums<kTokens> sum;
      unrolled<kTokens * kChains>([&](auto i) __attribute__((always_inline)) {
        sum[i.value / kChains][i.value % kChains] = _mm512_setzero_ps();
      });
      for (int64_t begin = 0; begin < w.columns; begin += kSpan) {
        // The row's next span or, after its last one, the first span of the next row; after the
        // last row that of the same one again, which nobody uses.
        const bool same_row = begin + kSpan < w.columns;
        make_head(same_row || row + 1 == row_end ? row : row + 1, same_row ? begin + kSpan : 0,
                  *next);
        unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
          sum[t.value][0] = _mm512_add_ps(sum[t.value][0], head->rest[t.value]);
        });
        add_span(row, begin, *head, sum);
        Head* const used = head;
        head = next;
        next = used;
      }
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        const auto& chain = sum[t.value];
        y[t.value * y_stride + row] = sum_tree((vf)((chain[0] + chain[1]) + (chain[2] + chain[3])));
      });
    }
  }
};

template <int kBits, int kGroup, int kTokens = kDecodeTokens>
void decode_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                 int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      return decode_int8<kBits, kGroup, kTokens - 1>(w, x, tokens, y, y_stride, row_begin, row_end);
    }
  }
  RowDecoder<kBits, kGroup, kTokens>{w, x}.run(y, y_stride, row_begin, row_end);
}
