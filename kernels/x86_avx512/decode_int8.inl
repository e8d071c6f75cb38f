// Linear layers on int8 activations for up to 4 tokens: one row after another, in address order,
// which is what the hardware prefetchers follow; a register of unpacked codes serves all tokens.
//
//   a step, 64 weights:  1 load + 3 operations to unpack (none at 8 bits), then a token 1 dot
//   product
//                        of 64, 1 conversion, 1 multiply-add by the group's scale (g = 128: half of
//                        the last two). About 2.1 cycles on cores with two vector pipes.
//   16 groups:           2 loads, 2 conversions, and a token 1 multiplication of the scales and 2
//                        multiply-adds for the biases and the residuals.
//   a row:               one horizontal sum a token.
//
// Limit: memory. At 64 weights in 2.1 cycles a core asks for 40 (2 bits) to 140 (8 bits) GB/s,
// more than it is given.
//
// Order of sums: step i of a row is added into chain i % 4, lanes and chains are joined at the end,
// for any number of tokens of this class.

constexpr int kDecodeTokens = 4;
constexpr int kChains = 4;
constexpr int kAhead = 4096;  // bytes: hardware prefetchers stop at the end of a page

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

template <int kBits, int kGroup, int kTokens>
struct RowDecoder {
  static constexpr int kStepsPerGroup = kGroup >= kStep ? kGroup / kStep : 1;
  static constexpr int kGroupsPerStep = kGroup >= kStep ? 1 : kStep / kGroup;
  static constexpr int kUnit = kStepsPerGroup * kStep;  // weights of a group, or of two
  static constexpr int kUnitBytes = kUnit / 8 * kBits;
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
    for (int64_t g = 0; g < groups; g += kGroupBlock) {
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

  // The scales of the groups in `unit`, one for each lane of its dot product.
  [[gnu::always_inline]] static __m512 scales_of(const Head& head, int t, int64_t unit) {
    if constexpr (kGroupsPerStep == 1) {
      return _mm512_set1_ps(head.scale[t][unit]);
    } else {
      const __m512 low = _mm512_set1_ps(head.scale[t][2 * unit]);
      return _mm512_mask_broadcastss_ps(low, 0xff00, _mm_load_ss(&head.scale[t][2 * unit + 1]));
    }
  }

  // A register of unpacked codes serves all tokens; `unit` counts within the span.
  template <int kChain>
  [[gnu::always_inline]] void add(const __m512i (&step)[kStepsPerGroup], int64_t column,
                                  int64_t unit, const Head& head, RowSums<kTokens>& sum) const {
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      __m512i dots = _mm512_setzero_si512();
      const int8_t* codes = x.codes + t.value * x.code_stride + column;
      unrolled<kStepsPerGroup>([&](auto i) __attribute__((always_inline)) {
        dots =
            _mm512_dpbusd_epi32(dots, step[i.value], _mm512_loadu_si512(codes + i.value * kStep));
      });
      __m512& total = sum[t.value][kChain];
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales_of(head, t.value, unit), total);
    });
  }

  template <int kChain, bool kMasked>
  [[gnu::always_inline]] void whole_unit(const uint8_t* codes, int64_t column, int64_t unit,
                                         const Head& head, RowSums<kTokens>& sum) const {
    __m512i step[kStepsPerGroup];
    unrolled<kStepsPerGroup>([&](auto i) __attribute__((always_inline)) {
      constexpr int kBytes = 8 * kBits;
      const uint8_t* p = codes + i.value * kBytes;
      // One prefetch a line or less.
      if constexpr (kBits > 4 || (kChain * kStepsPerGroup + i.value) * kBytes % 64 == 0)
        __builtin_prefetch(p + kAhead);
      step[i.value] = kMasked ? unpack_step<kBits>(p, code_bytes_mask(kStep, kBits))
                              : unpack_over_read<kBits>(p);
    });
    add<kChain>(step, column, unit, head, sum);
  }

  // Adds the columns of a span from `begin` on.
  [[gnu::always_inline]] void add_span(int64_t row, int64_t begin, const Head& head,
                                       RowSums<kTokens>& sum) const {
    const int64_t row_bytes = w.columns / 8 * kBits;
    const uint8_t* codes = w.codes + row * row_bytes + begin / 8 * kBits;
    const int64_t left = w.columns - begin;
    const int64_t columns = left < kSpan ? left : kSpan;
    const int64_t units = columns / kUnit;
    // Where no other row follows, the last unit is loaded through a mask.
    const bool last = (w.rows - 1 - row) * row_bytes < kMostOverRead;
    const int64_t open_units = last ? units - 1 : units;
    int64_t u = 0;
    for (; u + kChains <= open_units; u += kChains) {
      unrolled<kChains>([&](auto i) __attribute__((always_inline)) {
        whole_unit<i.value, false>(codes + i.value * kUnitBytes, begin + (u + i.value) * kUnit,
                                   u + i.value, head, sum);
      });
      codes += kChains * kUnitBytes;
    }
    for (; u < units; ++u, codes += kUnitBytes)
      whole_unit<0, true>(codes, begin + u * kUnit, u, head, sum);
    // The last step of a row is half empty where groups of 32 are odd in number.
    if constexpr (kGroupsPerStep == 2) {
      if (columns % kUnit != 0) {
        const __m512i step[1] = {unpack_step<kBits>(codes, code_bytes_mask(32, kBits))};
        add<0>(step, begin + u * kUnit, u, head, sum);
      }
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
