// Tiles for USMMLA, which multiplies 2 rows x 8 columns by 8 columns x 2 tokens: 8 rows x 4 tokens.
//
// Weights of a panel, 12 KiB a tile: [steps of 8 columns][4 pairs of rows][2 rows][8 bytes], scales
// and biases twice each, as the sums lie: row 0 with token 0 and 1, row 1 with token 0 and 1.
// Tokens are brought into [steps of 8 columns][2 tokens][8 bytes] once per panel for a block of 4
// tiles (48 KiB, L1 and L2 of the cores that have the instruction).
//
//   operations per 64 columns at group 64:
//     per 8 rows x 4 tokens   64 USMMLA, 32 float (convert, 3 multiply-adds for 4 sums), 4
//                             for tokens (16 per 32 rows); 48 loads of codes, 14 of metadata
//     per 8 rows, once        8 times those of unpacking, 32 to pair rows; with T tokens in all a
//                             share of 2.6/(2.6 + T) at 4 bits, 7/(7 + T) at 5 bits
//   Bound: USMMLA and float operations. Groups of 32 double the float ones, groups of 128 halve
//   them.

template <ActivationOrder kOrder, int kGroup>
struct UsmmlaTiles {
  static constexpr int kBlockTiles = 4;
  static constexpr int kUnit = 2;
  static constexpr int kPieces = 2;
  static constexpr int kSteps = 8;  // of a block
  static constexpr int kGroups = kPanel / kGroup;
  static constexpr int kRowPairs = kTileRows / 2;
  static constexpr int kTokenPairs = kTileTokens / 2;

  // Low and high halves of two registers side by side.
  [[gnu::always_inline]] static uint8x16_t paired(uint8x16_t a, uint8x16_t b, int half) {
    const uint64x2_t x = vreinterpretq_u64_u8(a), y = vreinterpretq_u64_u8(b);
    return vreinterpretq_u8_u64(half == 0 ? vzip1q_u64(x, y) : vzip2q_u64(x, y));
  }

  struct Weights {
    alignas(64) uint8_t codes[kPanel / 8][kRowPairs][16];
    float scales[kGroups][kRowPairs][4], biases[kGroups][kRowPairs][4];

    template <int kBits>
    void load(const AffineMatrix& w, const TileRows& rows, int64_t begin, int64_t columns) {
      for (int p = 0; p < kRowPairs; ++p) {
        unpack_blocks<kBits, 2>(
            w, rows, 2 * p, begin,
            columns, [&](int64_t b, const Block(&blocks)[2]) __attribute__((always_inline)) {
              unrolled<kSteps>([&](auto step) __attribute__((always_inline)) {
                constexpr Piece kPiece = piece_of<kOrder, kGroup, kPieces>(step.value);
                vst1q_u8(
                    codes[b * kSteps + step.value][p],
                    paired(blocks[0].part[kPiece.part], blocks[1].part[kPiece.part], kPiece.index));
              });
            });
      }
      const auto into = [](float(&out)[kGroups][kRowPairs][4], int quad) {
        return [&out, quad](int64_t g, float32x4_t v) {
          vst1q_f32(out[g][2 * quad], vzip1q_f32(v, v));
          vst1q_f32(out[g][2 * quad + 1], vzip2q_f32(v, v));
        };
      };
      const int64_t group = begin / kGroup;
      for (int q = 0; q < 2; ++q) {
        unpack_metadata(w.scales, w, rows, 4 * q, group, columns / kGroup, into(scales, q));
        unpack_metadata(w.biases, w, rows, 4 * q, group, columns / kGroup, into(biases, q));
      }
    }
  };

  struct Tokens {
    alignas(64) int8_t codes[kTokenPairs][kPanel / 8][16];
    // Of token 0, 1, 0, 1; `middles` are middle code * residual.
    float scales[kTokenPairs][kGroups][4], sums[kTokenPairs][kGroups][4];
    float middles[kTokenPairs][kGroups][4];

    // Of an odd number the last token is its own partner.
    void load(const Int8Activations& x, float mid, int64_t first, int count, int64_t begin,
              int64_t columns) {
      const int64_t groups = columns / kGroup;
      for (int p = 0; 2 * p < count; ++p) {
        const int64_t one = first + 2 * p;
        const int64_t two = 2 * p + 1 < count ? one + 1 : one;
        const int8_t* a = x.codes + one * x.code_stride + begin;
        const int8_t* b = x.codes + two * x.code_stride + begin;
        for (int64_t k = 0; k < (columns + kBlock - 1) / kBlock; ++k) {
          unrolled<kSteps>([&](auto step) __attribute__((always_inline)) {
            constexpr Piece kPiece = piece_of<kOrder, kGroup, kPieces>(step.value);
            const int64_t at = block_offset<kOrder>(k) + kPiece.part * kPartStride<kOrder>;
            const uint8x16_t both = paired(vreinterpretq_u8_s8(vld1q_s8(a + at)),
                                           vreinterpretq_u8_s8(vld1q_s8(b + at)), kPiece.index);
            vst1q_s8(codes[p][k * kSteps + step.value], vreinterpretq_s8_u8(both));
          });
        }
        const auto spread = [&](const float* values, float factor, float(&out)[kGroups][4]) {
          const float* u = values + one * x.group_stride + begin / kGroup;
          const float* v = values + two * x.group_stride + begin / kGroup;
          for (int64_t g = 0; g < groups; ++g) {
            const float32x4_t both = vzip1q_f32(vld1q_dup_f32(u + g), vld1q_dup_f32(v + g));
            vst1q_f32(out[g], vmulq_n_f32(both, factor));
          }
        };
        spread(x.scales, 1.0f, scales[p]);
        spread(x.sums, 1.0f, sums[p]);
        spread(x.residuals, mid, middles[p]);
      }
    }
  };

  template <int kPairs>
  static void multiply_pairs(const Weights& w, const Tokens& x, int64_t groups, float* part) {
    float32x4_t sum[kRowPairs][kPairs] = {};
    for (int64_t g = 0; g < groups; ++g) {
      int32x4_t dots[kRowPairs][kPairs] = {};
      for (int64_t k = g * (kGroup / 8); k < (g + 1) * (kGroup / 8); k += 4) {
        unrolled<4>([&](auto step) __attribute__((always_inline)) {
          const uint8_t(*weights)[16] = w.codes[k + step.value];
          unrolled<kPairs>([&](auto p) __attribute__((always_inline)) {
            const int8x16_t codes = vld1q_s8(x.codes[p.value][k + step.value]);
            unrolled<kRowPairs>([&](auto r) __attribute__((always_inline)) {
              dots[r.value][p.value] =
                  vusmmlaq_s32(dots[r.value][p.value], vld1q_u8(weights[r.value]), codes);
            });
          });
        });
      }
      unrolled<kPairs>([&](auto p) __attribute__((always_inline)) {
        const float32x4_t token_scale = vld1q_f32(x.scales[p.value][g]);
        const float32x4_t token_sum = vld1q_f32(x.sums[p.value][g]);
        const float32x4_t middle = vld1q_f32(x.middles[p.value][g]);
        unrolled<kRowPairs>([&](auto r) __attribute__((always_inline)) {
          const float32x4_t v = vcvtq_f32_s32(dots[r.value][p.value]);
          const float32x4_t product = vfmaq_f32(middle, v, token_scale);
          float32x4_t& s = sum[r.value][p.value];
          s = vfmaq_f32(s, vld1q_f32(w.scales[g][r.value]), product);
          s = vfmaq_f32(s, vld1q_f32(w.biases[g][r.value]), token_sum);
        });
      });
    }
    for (int p = 0; p < kPairs; ++p) {
      for (int q = 0; q < 2; ++q) {
        float* out = part + 2 * p * kTileRows + 4 * q;
        vst1q_f32(out, vuzp1q_f32(sum[2 * q][p], sum[2 * q + 1][p]));
        vst1q_f32(out + kTileRows, vuzp2q_f32(sum[2 * q][p], sum[2 * q + 1][p]));
      }
    }
  }

  [[gnu::noinline]] static void multiply(const Weights& w, const Tokens& x, int count,
                                         int64_t groups, float* part) {
    if (count > 2) return multiply_pairs<2>(w, x, groups, part);
    multiply_pairs<1>(w, x, groups, part);
  }
};
