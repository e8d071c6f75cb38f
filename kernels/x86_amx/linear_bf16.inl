// Linear layers with bf16 weights and f32 activations in tiles.
//
// An activation is the exact sum of three bf16 numbers: its upper 16 bits, those of what is left,
// and the rest (24 bits of a float in 8 + 8 + 8). Three TDPBF16PS, 48 cycles, stand for the 512
// multiply-adds on registers of f32, 256 cycles, of 16 rows x 16 tokens x 32 columns.
//
//   weights   [2 strips][32 columns][16 rows][32]                       16 KiB
//   tokens    [tile][32 columns][part: 3][16 pairs of K][tokens][2]     at most 192 KiB
//
// 32 columns of 2 x 2 tiles take 2 loads of weights, 6 of tokens and 12 products of 16 cycles; four
// sums in turn cover the latency of a product. Limit: the rate of products, a third of that for
// bf16 itself. A strip is copied before it is used: rows in the map are often a power of two apart,
// where the 16 rows of a tile would fight for one set of the cache, and the last columns need zeros
// behind them.
//
// One token takes the same tiles as many, because a result may not depend on their number: 1 KiB of
// weights in about 80 cycles, which is several times what a core is given from memory. The rows
// that follow are asked for while these are used, in the order of addresses.
//
// Order of sums: 256 columns in a tile, step by step, and in a step the three parts from the
// largest on; then one addition to the f32 sum.
//
// Error, with u = 2^-24 and M the sum of abs(w x): 15 roundings in a chain of 16 products, one for
// joining the two chains, 24 for the additions within 256 columns and one for every 256 columns:
//
//     abs(y - exact) <= (40 + K/256) u M + 2^-125 sum (abs(w) + abs(x) + 1)
//
// The last term is what the instruction drops: it takes denormal operands and results as zero. An
// infinite or NaN activation stays one; an infinite weight gives NaN where a part is zero.

constexpr int64_t kBf16Step = 32;
constexpr int64_t kBf16Span = 256;
constexpr int kParts = 3;
constexpr int64_t kBf16OperandColumns = 2048;  // of all token tiles of a block, if these are full
constexpr int64_t kBf16OperandValues = kBf16OperandColumns * kParts * kTileRows;

struct Bf16Buffers {
  alignas(64) uint16_t weights[2][kBf16Span / kBf16Step][kTileRows][kBf16Step];
  alignas(64) float result[4][kTileFloats];
  alignas(64) uint16_t tokens[kBf16OperandValues];
  alignas(64) float sums[kSumFloats];
};

// part[0] + part[1] + part[2] = v, each with 8 bits of mantissa in the upper half of its lanes. A
// value that is not finite is its first part, and a NaN stays one without its lower bits.
[[gnu::always_inline]] inline void split_floats(__m512 v, __m512i (&part)[kParts]) {
  constexpr int kNan = 0x81, kNanOrInfinity = 0x99;  // of vfpclass
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __mmask16 finite = _knot_mask16(_mm512_fpclass_ps_mask(v, kNanOrInfinity));
  const __m512i bits = _mm512_castps_si512(v);
  part[0] = _mm512_and_si512(bits, upper);
  part[0] = _mm512_mask_or_epi32(part[0], _mm512_fpclass_ps_mask(v, kNan), part[0],
                                 _mm512_set1_epi32(0x00400000));
  const __m512 left = _mm512_maskz_sub_ps(finite, v, _mm512_castsi512_ps(part[0]));
  part[1] = _mm512_and_si512(_mm512_castps_si512(left), upper);
  part[2] = _mm512_castps_si512(_mm512_sub_ps(left, _mm512_castsi512_ps(part[1])));
}

// The upper halves of 32 floats in their order.
[[gnu::always_inline]] inline __m512i upper_halves(__m512i first, __m512i second) {
  struct OddWords {
    alignas(64) uint16_t index[32] = {};
    constexpr OddWords() {
      for (int i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(2 * i + 1);
    }
  };
  static constexpr OddWords kOdd;
  return _mm512_permutex2var_epi16(first, _mm512_load_si512(kOdd.index), second);
}

inline __mmask16 lanes_of(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

// The column operand of `wide` tokens (at most 16) from `token` on, zeros behind the last token and
// column.
inline void split_tile(const float* x, int64_t x_stride, int64_t token, int64_t tokens,
                       int64_t columns, int64_t wide, uint16_t* out) {
  alignas(64) uint16_t split[kParts][kTileRows][kBf16Step] = {};
  const int64_t some = at_most(tokens - token, wide);
  const __mmask16 used = lanes_of(wide);
  for (int64_t c = 0; c < columns; c += kBf16Step) {
    for (int64_t t = 0; t < some; ++t) {
      const float* p = x + (token + t) * x_stride + c;
      __m512i low[kParts], high[kParts];
      split_floats(_mm512_maskz_loadu_ps(lanes_of(columns - c), p), low);
      split_floats(_mm512_maskz_loadu_ps(lanes_of(columns - c - 16), p + 16), high);
      for (int i = 0; i < kParts; ++i)
        _mm512_store_si512(split[i][t], upper_halves(low[i], high[i]));
    }
    for (int i = 0; i < kParts; ++i) {
      if (wide == 1) {
        // Pairs of a single token lie in the order that they have.
        _mm512_storeu_si512(out, _mm512_load_si512(split[i][0]));
        out += kBf16Step;
        continue;
      }
      const uint8_t* rows[kTileRows];
      for (int t = 0; t < kTileRows; ++t) rows[t] = reinterpret_cast<const uint8_t*>(split[i][t]);
      __m512i pairs[16];
      transpose_rows(rows, pairs);
      for (int k = 0; k < 16; ++k, out += 2 * wide) _mm512_mask_storeu_epi32(out, used, pairs[k]);
    }
  }
}

// Copies of 16 rows from first_row on, columns [begin, begin + columns), zeros behind them.
inline void copy_strip(const DenseMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                       int64_t columns, uint16_t (*out)[kTileRows][kBf16Step]) {
  for (int r = 0; r < kTileRows; ++r) {
    const uint8_t* p = w.data + 2 * (row_in_range(first_row + r, row_end) * w.columns + begin);
    for (int64_t c = 0; c < columns; c += kBf16Step) {
      const int64_t left = at_most(columns - c, kBf16Step);
      const __mmask32 mask = ~uint32_t{0} >> (kBf16Step - left);
      _mm512_store_si512(out[c / kBf16Step][r], _mm512_maskz_loadu_epi16(mask, p + 2 * c));
    }
  }
}

// Adds the share of a span to the sums of kStrips x kTokenTiles tiles; `fresh` starts from zero.
// tokens[t]: the operand of token tile t, `wide` tokens; sums[s][t]: where the tile's sums are.
template <int kStrips, int kTokenTiles>
void multiply_span(Bf16Buffers& buffers, int64_t steps, const uint16_t* const (&tokens)[2],
                   int64_t wide, float* const (&sums)[2][2], bool fresh) {
  constexpr int kWeights = 4, kTokens = 6;
  const int64_t operand_values = 2 * wide * kTileRows;
  const auto each_tile = [](auto&& f) __attribute__((always_inline)) {
    unrolled<kStrips * kTokenTiles>(f);
  };
  each_tile([&](auto i) __attribute__((always_inline)) { tile_zero<i.value>(); });
  for (int64_t step = 0; step < steps; ++step) {
    unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
      tile_load<kWeights + s.value>(buffers.weights[s.value][step], kTileRowBytes);
    });
    unrolled<kParts>([&](auto part) __attribute__((always_inline)) {
      unrolled<kTokenTiles>([&](auto t) __attribute__((always_inline)) {
        const int64_t at = (step * kParts + part.value) * operand_values;
        tile_load<kTokens + t.value>(tokens[t.value] + at, 4 * wide);
      });
      each_tile([&](auto i) __attribute__((always_inline)) {
        tile_dpbf16ps<i.value, kWeights + i.value / kTokenTiles, kTokens + i.value % kTokenTiles>();
      });
    });
  }
  each_tile([&](auto i) __attribute__((always_inline)) {
    tile_store<i.value>(buffers.result[i.value], kTileRowBytes);
  });
  each_tile([&](auto i) __attribute__((always_inline)) {
    float* const sum = sums[i.value / kTokenTiles][i.value % kTokenTiles];
    for (int r = 0; r < kTileRows; ++r) {
      const __m512 share = _mm512_load_ps(buffers.result[i.value] + 16 * r);
      _mm512_store_ps(sum + 16 * r,
                      fresh ? share : _mm512_add_ps(_mm512_load_ps(sum + 16 * r), share));
    }
  });
}

inline void prefetch_bytes(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// Tiles of fewer than 16 tokens are narrow, so that the operand of one token is no larger than it
// needs to be.
inline TileConfig bf16_tiles(int64_t wide) {
  TileConfig config;
  constexpr int kNarrow[] = {0, 1, 2, 3, 6, 7};
  for (const int tile : kNarrow) config.set(tile, kTileRows, static_cast<int>(4 * wide));
  return config;
}

// Two strips of rows from `row` on, one panel of columns [begin, begin + width), all tokens of the
// block.
struct Bf16Panel {
  const DenseMatrix& w;
  Bf16Buffers& buffers;
  int64_t tiles, wide, tile_values;  // token tiles, tokens and operand values of one

  void multiply(int64_t row, int64_t last, int64_t row_end, int64_t begin, int64_t width,
                float* strip_sums) const {
    const bool two_strips = last - row > kTileRows;
    const int64_t rows = two_strips ? 2 * kTileRows : kTileRows;
    const int64_t row_bytes = 2 * w.columns;
    // A panel of whole rows has the next ones right behind it; else they are pieces.
    const uint8_t* ahead = w.data + (row + rows) * row_bytes + 2 * begin;
    for (int64_t c = 0; c < width; c += kBf16Span) {
      const int64_t columns = at_most(width - c, kBf16Span);
      if (width == w.columns) {
        prefetch_bytes(ahead, 2 * columns * rows);
        ahead += 2 * columns * rows;
      } else {
        for (int64_t r = 0; r < rows; ++r)
          prefetch_bytes(ahead + r * row_bytes + 2 * c, 2 * columns);
      }
      copy_strip(w, row, row_end, begin + c, columns, buffers.weights[0]);
      if (two_strips)
        copy_strip(w, row + kTileRows, row_end, begin + c, columns, buffers.weights[1]);
      multiply_tiles(round_up(columns, kBf16Step) / kBf16Step, c * kParts * wide, two_strips,
                     strip_sums, begin + c == 0);
    }
  }

  void multiply_tiles(int64_t steps, int64_t operand_at, bool two_strips, float* strip_sums,
                      bool fresh) const {
    for (int64_t t = 0; t < tiles; t += 2) {
      const bool two_tiles = t + 1 < tiles;
      const uint16_t* const first = buffers.tokens + t * tile_values + operand_at;
      const uint16_t* const operands[2] = {first, two_tiles ? first + tile_values : first};
      float* const sum = strip_sums + t * kTileFloats;
      float* const below = two_strips ? sum + tiles * kTileFloats : sum;
      float* const sums[2][2] = {{sum, sum + kTileFloats}, {below, below + kTileFloats}};
      const auto run = two_strips ? (two_tiles ? multiply_span<2, 2> : multiply_span<2, 1>)
                                  : (two_tiles ? multiply_span<1, 2> : multiply_span<1, 1>);
      run(buffers, steps, operands, wide, sums, fresh);
    }
  }
};

void amx_bf16(const DenseMatrix& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
              int64_t y_stride, int64_t row_begin, int64_t row_end) {
  Bf16Buffers buffers;
  // Lanes behind the tokens of a narrow tile are added up too, and dropped in the end.
  for (auto& tile : buffers.result) {
    for (float& v : tile) v = 0.0f;
  }
  const int64_t wide = at_most(tokens, kTileRows);
  tile_configure(bf16_tiles(wide));
  int64_t tile_values = 0;
  const auto operand = [&](int64_t token, int64_t some, int64_t begin, int64_t width) {
    tile_values = round_up(width, kBf16Step) * kParts * wide;
    for (int64_t t = 0; t < some; t += kTileRows) {
      split_tile(x + begin, x_stride, token + t, token + some, width, wide,
                 buffers.tokens + t / kTileRows * tile_values);
    }
  };
  const auto strips = [&](int64_t first, int64_t last, int64_t some, int64_t begin, int64_t width) {
    const int64_t tiles = round_up(some, kTileRows) / kTileRows;
    const Bf16Panel panel{w, buffers, tiles, wide, tile_values};
    for (int64_t row = first; row < last; row += 2 * kTileRows) {
      panel.multiply(row, last, row_end, begin, width,
                     buffers.sums + (row - first) / kTileRows * tiles * kTileFloats);
    }
  };
  const auto finished = [&](int64_t first, int64_t last, int64_t token, int64_t some) {
    store_block(buffers.sums, first, last, some, y + token * y_stride, y_stride);
  };
  for_each_block(tokens, w.columns, kBf16OperandColumns * kTileRows / wide, kBf16Span, row_begin,
                 row_end, operand, strips, finished);
  tile_release();
}

void amx_dense_matmul(const DenseMatrix& w, const float* x, int64_t x_stride, int64_t tokens,
                      float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if (w.type != FloatType::kBF16 || tokens == 0) {
    return x86_avx512_table()->dense_matmul(w, x, x_stride, tokens, y, y_stride, row_begin,
                                            row_end);
  }
  amx_bf16(w, x, x_stride, tokens, y, y_stride, row_begin, row_end);
}
