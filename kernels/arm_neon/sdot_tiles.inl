// Tiles for SDOT by element: 8 rows x 4 tokens, lanes are rows.
//
// Weights of a panel, 10 KiB a tile: [steps of 4 columns][8 rows][4 bytes], so that one register
// holds 4 columns of 4 rows and is multiplied by one 32-bit element of a token's codes, which are
// read where they are. A block is 2 tiles: 20 KiB, in L1 beside 4 KiB of activations.
//
//   operations per 64 columns at group 64:
//     per 8 rows x 4 tokens   128 SDOT, 32 float (convert, 3 multiply-adds for 4 sums);
//                             48 loads of codes and 16 of metadata
//     per 8 rows, once        8 times those of unpacking, 64 to transpose; with T tokens in all a
//                             share of 2.4/(2.4 + T) at 4 bits, 5.2/(5.2 + T) at 5 bits
//   Bound: SDOT and float operations. Groups of 32 double the float ones, groups of 128 halve them.

template <ActivationOrder kOrder, int kGroup>
struct SdotTiles {
  static constexpr int kBlockTiles = 2;
  static constexpr int kUnit = 1;
  static constexpr int kPieces = 4;
  static constexpr int kSteps = 16;  // of a block
  static constexpr int kGroups = kPanel / kGroup;
  static constexpr bool kSubtract = kOrder == order_of(8) && kNegated<8>;

  struct Weights {
    alignas(64) uint8_t codes[kPanel / 4][2][16];
    float scales[kGroups][kTileRows], biases[kGroups][kTileRows];

    template <int kBits>
    void load(const AffineMatrix& w, const TileRows& rows, int64_t begin, int64_t columns) {
      for (int q = 0; q < 2; ++q) {
        unpack_blocks<kBits, 4>(
            w, rows, 4 * q, begin,
            columns, [&](int64_t b, const Block(&blocks)[4]) __attribute__((always_inline)) {
              float32x4_t pieces[4][4];
              for (int j = 0; j < 4; ++j) {
                for (int r = 0; r < 4; ++r) pieces[j][r] = vreinterpretq_f32_u8(blocks[r].part[j]);
                transpose(pieces[j]);
              }
              unrolled<kSteps>([&](auto step) __attribute__((always_inline)) {
                constexpr Piece kPiece = piece_of<kOrder, kGroup, kPieces>(step.value);
                vst1q_u8(codes[b * kSteps + step.value][q],
                         vreinterpretq_u8_f32(pieces[kPiece.part][kPiece.index]));
              });
            });
        const auto into = [&](float(&out)[kGroups][kTileRows]) {
          return [&out, q](int64_t g, float32x4_t v) { vst1q_f32(out[g] + 4 * q, v); };
        };
        const int64_t group = begin / kGroup;
        unpack_metadata(w.scales, w, rows, 4 * q, group, columns / kGroup, into(scales));
        unpack_metadata(w.biases, w, rows, 4 * q, group, columns / kGroup, into(biases));
      }
    }
  };

  struct Tokens {
    const int8_t* codes;
    const float *scales, *sums;
    int64_t code_stride, group_stride;
    float middles[kTileTokens][kGroups];    // middle code * residual
    int32_t offsets[kTileTokens][kGroups];  // what a group's dot products start from

    void load(const Int8Activations& x, float mid, int64_t first, int count, int64_t begin,
              int64_t columns) {
      codes = x.codes + first * x.code_stride + begin;
      scales = x.scales + first * x.group_stride + begin / kGroup;
      sums = x.sums + first * x.group_stride + begin / kGroup;
      code_stride = x.code_stride;
      group_stride = x.group_stride;
      const float* residuals = x.residuals + first * x.group_stride + begin / kGroup;
      for (int t = 0; t < count; ++t) {
        for (int64_t g = 0; g < columns / kGroup; ++g)
          middles[t][g] = mid * residuals[t * group_stride + g];
      }
      if constexpr (kSubtract) {
        for (int t = 0; t < count; ++t) {
          for (int64_t g = 0; g < columns / kGroup; ++g) {
            int32x4_t sum = vdupq_n_s32(0);
            for (int i = 0; i < kGroup; i += 16)
              sum = dot_offset(sum, vld1q_s8(codes + t * code_stride + g * kGroup + i));
            offsets[t][g] = vaddvq_s32(sum);
          }
        }
      }
    }
  };

  template <int kTokens>
  using Dots = int32x4_t[kTokens][2];

  // Steps [kBegin, kEnd) of the block of activations at x, weights at w: part by part, all its
  // lanes or, of two groups that share each part, the half that is the group's.
  template <int kTokens, int kBegin, int kEnd>
  [[gnu::always_inline]] static void add_dots(const uint8_t (*w)[2][16], const int8_t* x,
                                              int64_t stride, Dots<kTokens>& dots) {
    constexpr int kLanesUsed = kGroup == 32 && kOrder == ActivationOrder::kCrumbs ? 2 : 4;
    constexpr Piece kFirst = piece_of<kOrder, kGroup, kPieces>(kBegin);
    constexpr Piece kSecond = piece_of<kOrder, kGroup, kPieces>(kBegin + kLanesUsed);
    constexpr int kLane = kFirst.index;
    constexpr int kAdvance = (kSecond.part - kFirst.part) * kPartStride<kOrder>;
    x += kFirst.part * kPartStride<kOrder>;
// Unrolled, all loads move to the front and the sums out of the registers.
#pragma GCC unroll 1
    for (int step = kBegin; step < kEnd; step += kLanesUsed, x += kAdvance) {
      int8x16_t codes[kTokens];
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        codes[t.value] = vld1q_s8(x + t.value * stride);
      });
      unrolled<kLanesUsed>([&](auto lane) __attribute__((always_inline)) {
        constexpr int kThis = kLane + lane.value;
        const int8x16_t low = vreinterpretq_s8_u8(vld1q_u8(w[step + lane.value][0]));
        const int8x16_t high = vreinterpretq_s8_u8(vld1q_u8(w[step + lane.value][1]));
        unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
          dots[t.value][0] = vdotq_laneq_s32(dots[t.value][0], low, codes[t.value], kThis);
          dots[t.value][1] = vdotq_laneq_s32(dots[t.value][1], high, codes[t.value], kThis);
        });
      });
    }
  }

  template <int kTokens>
  [[gnu::always_inline]] static void add_group(const Weights& w, const Tokens& x, int64_t g,
                                               const Dots<kTokens>& dots,
                                               float32x4_t (&sum)[kTokens][2]) {
    for (int q = 0; q < 2; ++q) {
      const float32x4_t scale = vld1q_f32(w.scales[g] + 4 * q);
      const float32x4_t bias = vld1q_f32(w.biases[g] + 4 * q);
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        const int64_t at = t.value * x.group_stride + g;
        const float32x4_t v = vcvtq_f32_s32(dots[t.value][q]);
        const float32x4_t middle = vld1q_dup_f32(x.middles[t.value] + g);
        const float32x4_t token_scale = vld1q_dup_f32(x.scales + at);
        const float32x4_t product =
            kSubtract ? vfmsq_f32(middle, v, token_scale) : vfmaq_f32(middle, v, token_scale);
        float32x4_t& s = sum[t.value][q];
        s = vfmaq_f32(s, scale, product);
        s = vfmaq_f32(s, bias, vld1q_dup_f32(x.sums + at));
      });
    }
  }

  template <int kTokens>
  static void multiply_tokens(const Weights& w, const Tokens& x, int64_t groups, float* part) {
    float32x4_t sum[kTokens][2] = {};
    // One group; kHalf of its block if a block is two groups.
    const auto take = [&](int64_t g, auto half) __attribute__((always_inline)) {
      Dots<kTokens> dots;
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        dots[t.value][0] = dots[t.value][1] =
            kSubtract ? vld1q_dup_s32(x.offsets[t.value] + g) : vdupq_n_s32(0);
      });
      if constexpr (kGroup == 32) {
        constexpr int kFirst = half.value * kSteps / 2;
        add_dots<kTokens, kFirst, kFirst + kSteps / 2>(
            w.codes + g / 2 * kSteps, x.codes + block_offset<kOrder>(g / 2), x.code_stride, dots);
      } else {
        for (int64_t b = g * kGroup / kBlock; b < (g + 1) * kGroup / kBlock; ++b) {
          add_dots<kTokens, 0, kSteps>(w.codes + b * kSteps, x.codes + block_offset<kOrder>(b),
                                       x.code_stride, dots);
        }
      }
      add_group<kTokens>(w, x, g, dots, sum);
    };
    if constexpr (kGroup == 32) {
      int64_t g = 0;
      for (; g + 2 <= groups; g += 2) {
        take(g, Index<0>{});
        take(g + 1, Index<1>{});
      }
      if (g < groups) take(g, Index<0>{});
    } else {
      for (int64_t g = 0; g < groups; ++g) take(g, Index<0>{});
    }
    for (int t = 0; t < kTokens; ++t) {
      vst1q_f32(part + t * kTileRows, sum[t][0]);
      vst1q_f32(part + t * kTileRows + 4, sum[t][1]);
    }
  }

  [[gnu::noinline]] static void multiply(const Weights& w, const Tokens& x, int count,
                                         int64_t groups, float* part) {
    switch (count) {
      case 1:
        return multiply_tokens<1>(w, x, groups, part);
      case 2:
        return multiply_tokens<2>(w, x, groups, part);
      case 3:
        return multiply_tokens<3>(w, x, groups, part);
      case 4:
        return multiply_tokens<4>(w, x, groups, part);
    }
  }
};
