// Linear layers on int8 activations for many tokens: a block of rows is unpacked once and used for
// all tokens, with rows as lanes, so that there are no horizontal sums.
//
// A block is kBlockLanes rows x kBlockColumns columns, in the innermost cache:
//
//     codes   [columns/4][row half: 2][16 rows][4 bytes]     32 KiB
//     scales  [groups][32 rows] f32, biases likewise         2 to 4 KiB each
//
// Unpacking: 3 operations per 64 weights, and 4 per 64 to turn 16 rows x 16 words around. Then, for
// 2 x 16 rows and up to 6 tokens in registers:
//
//     4 columns:  2 loads of codes, 1 broadcast load a token, 2 dot products a token
//     a group:    1 multiplication and 2 x (1 conversion, 3 multiply-adds) a token
//
// At g = 64 and 6 tokens 192 dot products stand beside 54 other operations: 78 % of the peak of the
// dot product is the limit, and loads stay below one an operation. At 512 tokens unpacking takes 3
// % of the time, at 8 tokens about half.
//
// Sums of up to kTokenBlock tokens (32 KiB) wait in L2 for the next columns of the rows; more
// tokens unpack the rows again.
//
// Order of sums: groups one after another in a lane.

constexpr int kBlockLanes = 32;
constexpr int kBlockColumns = 1024;
constexpr int kMostTokens = 6;
constexpr int kTokenBlock = 256;

struct RowTile {
  alignas(64) uint8_t codes[kBlockColumns / 4][2][64];
  alignas(64) float scales[kBlockColumns / 32][kBlockLanes];
  alignas(64) float biases[kBlockColumns / 32][kBlockLanes];
};

// The order in which a block is unpacked, piece by piece of many rows, is no stream that a hardware
// prefetcher would follow. So the next block, which lies behind this one without a gap, is asked
// for line by line in the order of addresses while this one is unpacked; `ahead` is where that
// stands.
template <int kBits>
void unpack_tile(const AffineMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                 int64_t columns, const uint8_t*& ahead, RowTile& tile) {
  constexpr int kStepBytes = 8 * kBits;
  constexpr int kToL1 = 3;
  const int64_t row_bytes = w.columns / 8 * kBits;
  for (int half = 0; half < 2; ++half) {
    const uint8_t* rows[16];
    for (int r = 0; r < 16; ++r) {
      const int64_t row = row_in_range(first_row + 16 * half + r, row_end);
      rows[r] = w.codes + row * row_bytes + begin / 8 * kBits;
    }
    for (int64_t c = 0; c < columns; c += kStep) {
      const __mmask64 mask = code_bytes_mask(columns - c < kStep ? columns - c : kStep, kBits);
      __m512i words[16];
      unrolled<16>([&](auto r) __attribute__((always_inline)) {
        if constexpr (kBits > 4 || r.value * kStepBytes % 64 == 0)
          __builtin_prefetch(ahead + r.value * kStepBytes, 0, kToL1);
        words[r.value] = unpack_step<kBits>(rows[r.value] + c / 8 * kBits, mask);
      });
      ahead += 16 * kStepBytes;
      transpose16(words);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(tile.codes[c / 4 + i][half], words[i]);
    }
  }
}

inline void unpack_tile_metadata(const AffineMatrix& w, int64_t first_row, int64_t row_end,
                                 int64_t begin, int64_t columns, RowTile& tile) {
  const int64_t groups = columns / w.group;
  for (int half = 0; half < 2; ++half) {
    for (int64_t g = 0; g < groups; g += 16) {
      __m512i s[16], z[16];
      for (int r = 0; r < 16; ++r) {
        const int64_t row = row_in_range(first_row + 16 * half + r, row_end);
        const int64_t at = (row * w.columns + begin) / w.group + g;
        s[r] = _mm512_castps_si512(load_metadata16(w.scales, w.metadata, at, groups - g));
        z[r] = _mm512_castps_si512(load_metadata16(w.biases, w.metadata, at, groups - g));
      }
      transpose16(s);
      transpose16(z);
      for (int64_t i = 0; i < 16 && g + i < groups; ++i) {
        _mm512_store_si512(tile.scales[g + i] + 16 * half, s[i]);
        _mm512_store_si512(tile.biases[g + i] + 16 * half, z[i]);
      }
    }
  }
}

// Adds the tile's share to sums for kTokens tokens; `fresh` starts from zero instead.
template <int kGroup, int kTokens>
void multiply_tile_int8(const RowTile& tile, int64_t groups, float middle, const Int8Activations& x,
                        float (*sums)[kBlockLanes], bool fresh) {
  __m512 sum[kTokens][2];
  unrolled<2 * kTokens>([&](auto i) __attribute__((always_inline)) {
    constexpr int kToken = i.value / 2, kHalf = i.value % 2;
    sum[kToken][kHalf] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(sums[kToken] + 16 * kHalf);
  });
  for (int64_t g = 0; g < groups; ++g) {
    __m512i dots[kTokens][2];
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      dots[t.value][0] = dots[t.value][1] = _mm512_setzero_si512();
    });
    const uint8_t(*codes)[2][64] = tile.codes + g * (kGroup / 4);
    const int8_t* xg = x.codes + g * kGroup;
#pragma GCC unroll 2
    for (int k = 0; k < kGroup / 4; ++k) {
      const __m512i w0 = _mm512_load_si512(codes[k][0]);
      const __m512i w1 = _mm512_load_si512(codes[k][1]);
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        const __m512i four =
            _mm512_set1_epi32(load_bits<int32_t>(xg + t.value * x.code_stride + 4 * k));
        dots[t.value][0] = _mm512_dpbusd_epi32(dots[t.value][0], w0, four);
        dots[t.value][1] = _mm512_dpbusd_epi32(dots[t.value][1], w1, four);
      });
    }
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int64_t at = t.value * x.group_stride + g;
      const __m512 d = _mm512_set1_ps(x.scales[at]);
      const __m512 residual = _mm512_set1_ps(middle * x.residuals[at]);
      const __m512 group_sum = _mm512_set1_ps(x.sums[at]);
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        const __m512 s = _mm512_load_ps(tile.scales[g] + 16 * half.value);
        const __m512 z = _mm512_load_ps(tile.biases[g] + 16 * half.value);
        const __m512 dot = _mm512_cvtepi32_ps(dots[t.value][half.value]);
        __m512& total = sum[t.value][half.value];
        total = _mm512_fmadd_ps(_mm512_fmadd_ps(dot, d, residual), s, total);
        total = _mm512_fmadd_ps(z, group_sum, total);
      });
    });
  }
  unrolled<2 * kTokens>([&](auto i) __attribute__((always_inline)) {
    constexpr int kToken = i.value / 2, kHalf = i.value % 2;
    _mm512_store_ps(sums[kToken] + 16 * kHalf, sum[kToken][kHalf]);
  });
}

template <int kGroup, int kTokens = kMostTokens, typename... Rest>
void multiply_tokens(int64_t tokens, const Rest&... rest) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return multiply_tokens<kGroup, kTokens - 1>(tokens, rest...);
  }
  multiply_tile_int8<kGroup, kTokens>(rest...);
}

// The rows of `x` from `token` on, and their columns from `column` on.
inline Int8Activations activations_from(const Int8Activations& x, int64_t token, int64_t column,
                                        int group) {
  const int64_t at = token * x.group_stride + column / group;
  return {x.codes + token * x.code_stride + column,
          x.scales + at,
          x.sums + at,
          x.residuals + at,
          x.code_stride,
          x.group_stride};
}

// All columns of up to kTokenBlock tokens and kBlockLanes rows.
template <int kBits, int kGroup>
void multiply_block(const AffineMatrix& w, const Int8Activations& x, int64_t tokens,
                    int64_t first_row, int64_t row_end, float (*sums)[kBlockLanes]) {
  RowTile tile;
  // Register tiles of nearly equal size: 7 tokens are 4 + 3, not 6 + 1.
  const int64_t tiles = (tokens + kMostTokens - 1) / kMostTokens;
  const uint8_t* ahead = w.codes + (first_row + kBlockLanes) * (w.columns / 8 * kBits);
  for (int64_t begin = 0; begin < w.columns; begin += kBlockColumns) {
    const int64_t columns = w.columns - begin < kBlockColumns ? w.columns - begin : kBlockColumns;
    unpack_tile<kBits>(w, first_row, row_end, begin, columns, ahead, tile);
    unpack_tile_metadata(w, first_row, row_end, begin, columns, tile);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t t = i * tokens / tiles;
      multiply_tokens<kGroup>((i + 1) * tokens / tiles - t, tile, columns / kGroup,
                              code_middle(kBits), activations_from(x, t, begin, kGroup), sums + t,
                              begin == 0);
    }
  }
}

template <int kBits, int kGroup>
void tiles_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end) {
  // Sums of a block lie together: rows of y are often a power of two apart, where a few of them
  // would fill their sets of the cache.
  alignas(64) float sums[kTokenBlock][kBlockLanes];
  for (int64_t first = row_begin; first < row_end; first += kBlockLanes) {
    const int64_t rows = row_end - first < kBlockLanes ? row_end - first : kBlockLanes;
    const __mmask32 mask = ~uint32_t{0} >> (kBlockLanes - rows);
    for (int64_t t = 0; t < tokens; t += kTokenBlock) {
      const int64_t some = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      multiply_block<kBits, kGroup>(w, activations_from(x, t, 0, kGroup), some, first, row_end,
                                    sums);
      for (int64_t i = 0; i < some; ++i) {
        float* out = y + (t + i) * y_stride + first;
        _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), _mm512_load_ps(sums[i]));
        _mm512_mask_storeu_ps(out + 16, static_cast<__mmask16>(mask >> 16),
                              _mm512_load_ps(sums[i] + 16));
      }
    }
  }
}
