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

template <int kBits, int kGroup, int kTokens>
struct DecodeRow {
  static constexpr int kStepsPerGroup = kGroup >= kStep ? kGroup / kStep : 1;
  static constexpr int kGroupsPerStep = kGroup >= kStep ? 1 : kStep / kGroup;
  static constexpr int kUnit = kStepsPerGroup * kStep;  // weights of a group, or of two
  static constexpr int kUnitBytes = kUnit / 8 * kBits;
  static constexpr int kPanelUnits = kGroupBlock / kGroupsPerStep;

  const AffineMatrix& w;
  const Int8Activations& x;
  alignas(64) float scale[kTokens][kGroupBlock];  // s * d of the 16 groups of a panel

  DecodeRow(const AffineMatrix& weights, const Int8Activations& activations)
      : w(weights), x(activations) {}

  // The scales of the groups in `unit`, one for each lane of its dot product.
  [[gnu::always_inline]] __m512 scales_of(int t, int unit) const {
    if constexpr (kGroupsPerStep == 1) {
      return _mm512_set1_ps(scale[t][unit]);
    } else {
      const __m512 low = _mm512_set1_ps(scale[t][2 * unit]);
      return _mm512_mask_broadcastss_ps(low, 0xff00, _mm_load_ss(&scale[t][2 * unit + 1]));
    }
  }

  // A register of unpacked codes serves all tokens; `unit` counts within the panel.
  template <int kChain>
  [[gnu::always_inline]] void add(const __m512i (&step)[kStepsPerGroup], int64_t column, int unit,
                                  RowSums<kTokens>& sum) const {
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      __m512i dots = _mm512_setzero_si512();
      const int8_t* codes = x.codes + t.value * x.code_stride + column;
      unrolled<kStepsPerGroup>([&](auto i) __attribute__((always_inline)) {
        dots =
            _mm512_dpbusd_epi32(dots, step[i.value], _mm512_loadu_si512(codes + i.value * kStep));
      });
      __m512& total = sum[t.value][kChain];
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales_of(t.value, unit), total);
    });
  }

  template <int kChain>
  [[gnu::always_inline]] void whole_unit(const uint8_t* codes, int64_t column, int unit,
                                         RowSums<kTokens>& sum) const {
    __m512i step[kStepsPerGroup];
    unrolled<kStepsPerGroup>([&](auto i) __attribute__((always_inline)) {
      constexpr int kBytes = 8 * kBits;
      const uint8_t* p = codes + i.value * kBytes;
      // One prefetch a line or less.
      if constexpr (kBits > 4 || (kChain * kStepsPerGroup + i.value) * kBytes % 64 == 0)
        __builtin_prefetch(p + kAhead);
      step[i.value] = unpack_whole_step<kBits>(p);
    });
    add<kChain>(step, column, unit, sum);
  }

  // Scales of the panel's groups; what needs no codes goes into the first two chains.
  [[gnu::always_inline]] void start_panel(int64_t row, int64_t first_group, int64_t groups,
                                          RowSums<kTokens>& sum) {
    const int64_t at = row * (w.columns / kGroup) + first_group;
    const __m512 s = load_metadata16(w.scales, w.metadata, at, groups);
    const __m512 z = load_metadata16(w.biases, w.metadata, at, groups);
    const __m512 middle = _mm512_mul_ps(s, _mm512_set1_ps(code_middle(kBits)));
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int64_t from = t.value * x.group_stride + first_group;
      _mm512_store_ps(scale[t.value], _mm512_mul_ps(s, _mm512_loadu_ps(x.scales + from)));
      sum[t.value][0] = _mm512_fmadd_ps(z, _mm512_loadu_ps(x.sums + from), sum[t.value][0]);
      sum[t.value][1] =
          _mm512_fmadd_ps(middle, _mm512_loadu_ps(x.residuals + from), sum[t.value][1]);
    });
    // Broadcasts come out of memory for free; compilers that see the stores make shuffles of them.
    __asm__("" : "+m"(scale));
  }

  void run(int64_t row, float* y, int64_t y_stride) {
    RowSums<kTokens> sum;
    unrolled<kTokens * kChains>([&](auto i) __attribute__((always_inline)) {
      sum[i.value / kChains][i.value % kChains] = _mm512_setzero_ps();
    });
    const uint8_t* codes = w.codes + row * (w.columns / 8 * kBits);
    for (int64_t begin = 0; begin < w.columns; begin += kPanelUnits * kUnit) {
      const int64_t left = w.columns - begin;
      start_panel(row, begin / kGroup, left / kGroup, sum);
      const int units = static_cast<int>(left / kUnit < kPanelUnits ? left / kUnit : kPanelUnits);
      int u = 0;
      for (; u + kChains <= units; u += kChains) {
        unrolled<kChains>([&](auto i) __attribute__((always_inline)) {
          whole_unit<i.value>(codes + i.value * kUnitBytes, begin + (u + i.value) * kUnit,
                              u + i.value, sum);
        });
        codes += kChains * kUnitBytes;
      }
      for (; u < units; ++u, codes += kUnitBytes) whole_unit<0>(codes, begin + u * kUnit, u, sum);
      // The last step of a row is half empty where groups of 32 are odd in number.
      if constexpr (kGroupsPerStep == 2) {
        if (units < kPanelUnits && left % kUnit != 0) {
          const __m512i step[1] = {unpack_step<kBits>(codes, code_bytes_mask(32, kBits))};
          add<0>(step, begin + u * kUnit, u, sum);
        }
      }
    }
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const auto& chain = sum[t.value];
      y[t.value * y_stride + row] = sum_tree((vf)((chain[0] + chain[1]) + (chain[2] + chain[3])));
    });
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
  DecodeRow<kBits, kGroup, kTokens> decoder(w, x);
  for (int64_t row = row_begin; row < row_end; ++row) decoder.run(row, y, y_stride);
}
