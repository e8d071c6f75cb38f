// y = W x for 1 to 4 tokens: one row after another in address order, unpacked once for all tokens.
//
// A block of 64 weights is one integer register per token: four dot products, one conversion, one
// multiply-add with the products of the two scales. With groups of 32 its lanes 0 and 1 belong to
// the first group and 2 and 3 to the second, and the factors are spread alike. The sums of a strip
// are added to two chains in turn, a last half block to the second, the terms of sums and residuals
// to a third one; a row ends with (0 + 1) + third and one sum of lanes. The number of tokens
// changes no bit.
//
//   operations per 64 weights at group 64, beside unpacking (blocks.inl): 1 to widen metadata, and
//   per token 4 SDOT (8 bits without USDOT: 8), 2 to add up and 1 for the metadata:
//     bits               2   3   4   5   6   8
//     1 token           14  21  12  26  16   8 (16 without USDOT)
//     4 tokens          35  42  33  47  37  29 (49)
//   Groups of 32 add 2 per token (3 with kNibbles and kNatural, where lanes have to be paired);
//   groups of 128 save 1.5. Bound: the vector pipes; with two of them a block of 36 bytes at 4 bits
//   takes 6 cycles, one of 44 at 5 bits 13, and memory where a core gets less than that.

// Lane sums of the parts that belong to each half of a block, for the orders that keep the halves'
// columns in parts of their own.
template <int kBits>
inline int32x4_t dot_halves(const Block& block, const int8_t* x) {
  constexpr bool kNibbles = order_of(kBits) == ActivationOrder::kNibbles;
  int32x4_t sum[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  for (int j = 0; j < 4; ++j) {
    int32x4_t& half = sum[kNibbles ? j % 2 : j / 2];
    half = dot<kBits>(half, block.part[j], vld1q_s8(x + j * kPartStride<order_of(kBits)>));
  }
  return vpaddq_s32(sum[0], sum[1]);
}

template <int kBits>
inline int32x4_t dot_block(int32x4_t sum, const Block& block, const int8_t* x) {
  for (int j = 0; j < 4; ++j)
    sum = dot<kBits>(sum, block.part[j], vld1q_s8(x + j * kPartStride<order_of(kBits)>));
  return sum;
}

template <int kBits, int kGroup, int kTokens>
struct RowDecoder {
  // What one factor register covers: a block of 64 weights, or two in one group of 128.
  static constexpr int kUnitBlocks = kGroup == 128 ? 2 : 1;
  static constexpr int64_t kUnitBytes = kUnitBlocks * 8 * kBits;
  // Factors of a strip: one per group, or a register per two groups of 32.
  static constexpr int kFactors = kGroup == 32 ? 2 * kStrip : kStrip;

  const Int8Activations& x;
  float32x4_t chain[kTokens][2] = {};
  float32x4_t rest[kTokens] = {};
  float factors[kTokens][kFactors];

  explicit RowDecoder(const Int8Activations& activations) : x(activations) {}

  void take_metadata(const Strip& scales, const Strip& biases, int64_t group) {
    const float mid = code_middle(kBits);
    const float32x4_t middles[2] = {vmulq_n_f32(scales.half[0], mid),
                                    vmulq_n_f32(scales.half[1], mid)};
    for (int t = 0; t < kTokens; ++t) {
      const float* token_scales = x.scales + t * x.group_stride + group;
      const float* token_sums = x.sums + t * x.group_stride + group;
      const float* token_residuals = x.residuals + t * x.group_stride + group;
      for (int i = 0; i < 2; ++i) {
        const float32x4_t factor = vmulq_f32(scales.half[i], vld1q_f32(token_scales + 4 * i));
        if constexpr (kGroup == 32) {
          vst1q_f32(factors[t] + 8 * i, vzip1q_f32(factor, factor));
          vst1q_f32(factors[t] + 8 * i + 4, vzip2q_f32(factor, factor));
        } else {
          vst1q_f32(factors[t] + 4 * i, factor);
        }
        rest[t] = vfmaq_f32(rest[t], biases.half[i], vld1q_f32(token_sums + 4 * i));
        rest[t] = vfmaq_f32(rest[t], middles[i], vld1q_f32(token_residuals + 4 * i));
      }
    }
  }

  // The unit at p, number `index` of its row and `at` of its strip.
  template <int kChain>
  [[gnu::always_inline]] void take_unit(const uint8_t* p, int64_t index, int64_t at) {
    Block blocks[kUnitBlocks];
    int64_t offsets[kUnitBlocks];
    for (int b = 0; b < kUnitBlocks; ++b) {
      blocks[b] = load_block<kBits>(p + b * 8 * kBits);
      offsets[b] = block_offset<order_of(kBits)>(index * kUnitBlocks + b);
      for (uint8x16_t& part : blocks[b].part) part = operand<kBits>(part);
    }
    for (int t = 0; t < kTokens; ++t) {
      const int8_t* codes = x.codes + t * x.code_stride;
      int32x4_t dots = vdupq_n_s32(0);
      if constexpr (kGroup == 32 && order_of(kBits) != ActivationOrder::kCrumbs) {
        dots = dot_halves<kBits>(blocks[0], codes + offsets[0]);
      } else {
        for (int b = 0; b < kUnitBlocks; ++b)
          dots = dot_block<kBits>(dots, blocks[b], codes + offsets[b]);
      }
      const float32x4_t v = vcvtq_f32_s32(dots);
      const float32x4_t factor =
          kGroup == 32 ? vld1q_f32(factors[t] + 4 * at) : vld1q_dup_f32(factors[t] + at);
      float32x4_t& sum = chain[t][kChain];
      sum = kNegated<kBits> ? vfmsq_f32(sum, v, factor) : vfmaq_f32(sum, v, factor);
    }
  }

  void take_row(const uint8_t* codes, const uint8_t* scales, const uint8_t* biases, FloatType type,
                int64_t groups) {
    for (int64_t group = 0; group < groups; group += kStrip) {
      const int64_t n = groups - group < kStrip ? groups - group : kStrip;
      const int64_t at = group * bytes_of(type);
      take_metadata(load_strip(scales + at, type, n), load_strip(biases + at, type, n), group);
      const int64_t first = kGroup == 32 ? group / 2 : group;
      const int64_t units = kGroup == 32 ? n / 2 : n;
      const uint8_t* p = codes + first * kUnitBytes;
      int64_t i = 0;
      for (; i + 2 <= units; i += 2, p += 2 * kUnitBytes) {
        take_unit<0>(p, first + i, i);
        take_unit<1>(p + kUnitBytes, first + i + 1, i + 1);
      }
      if (i < units) {
        take_unit<0>(p, first + i, i);
        p += kUnitBytes;
      }
      if (kGroup == 32 && n % 2 != 0) take_unit<1>(HalfBlock<kBits>(p).bytes, first + units, units);
    }
  }
};

template <int kBits, int kGroup, int kTokens>
void decode_rows(const AffineMatrix& w, const Int8Activations& x, float* y, int64_t y_stride,
                 int64_t row_begin, int64_t row_end) {
  const int64_t groups = w.columns / kGroup;
  const int64_t row_bytes = w.columns / 8 * kBits;
  const int64_t row_metadata = groups * bytes_of(w.metadata);
  for (int64_t row = row_begin; row < row_end; ++row) {
    RowDecoder<kBits, kGroup, kTokens> decoder(x);
    decoder.take_row(w.codes + row * row_bytes, w.scales + row * row_metadata,
                     w.biases + row * row_metadata, w.metadata, groups);
    for (int t = 0; t < kTokens; ++t) {
      const float32x4_t sum =
          vaddq_f32(vaddq_f32(decoder.chain[t][0], decoder.chain[t][1]), decoder.rest[t]);
      y[t * y_stride + row] = vaddvq_f32(sum);
    }
  }
}
