// What both kinds of tile products share: how a call is cut into blocks, the column operand, and
// the way of finished sums into y.
//
// A product is 16 weight rows (the row operand: 64 bytes of each row, no transpose) times 16 tokens
// (the column operand: for 16 words of 4 bytes of K, the words of 16 tokens). So a row of the
// result holds one weight row for 16 tokens.
//
// The column operand costs about 60 cycles for 16 tokens x 64 bytes (computed), against 70 for one
// product of that size with its scaling; it is made once for a block of rows and tokens, so a call
// should bring many rows (row_block() in all.inl). Sums of a block wait in L2, [strip of 16
// rows][token tile][16 rows][16 tokens], until all panels of columns are through.

constexpr int kTokenBlock = 128;
constexpr int64_t kSumFloats = 32768;  // of a block: 256 rows x 128 tokens, or 2048 x 16
constexpr int64_t kTileFloats = kTileRows * kTileRows;

// Word c of the 64 bytes at each of 16 rows, whose quarter j lies quarter(j) bytes behind the row:
// out[c] gets that of row r as word r. A block of 4 x 4 words is gathered by loads into 128-bit
// lanes, which leaves 32 shuffles of 64.
template <typename Quarter>
[[gnu::always_inline]] inline void transpose_rows(const uint8_t* const (&rows)[16],
                                                  __m512i (&out)[16], Quarter&& quarter_at) {
  for (int j = 0; j < 4; ++j) {
    __m512i v[4];
    for (int i = 0; i < 4; ++i) {
      const auto quarter = [&](int lane) __attribute__((always_inline)) {
        const uint8_t* p = rows[i + 4 * lane] + quarter_at(j);
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      };
      v[i] = _mm512_castsi128_si512(quarter(0));
      v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x00f0, quarter(1));
      v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x0f00, quarter(2));
      v[i] = _mm512_mask_broadcast_i32x4(v[i], 0xf000, quarter(3));
    }
    __m512i words[4];
    turn_lanes(v, words);
    for (int c = 0; c < 4; ++c) out[4 * j + c] = words[c];
  }
}

[[gnu::always_inline]] inline void transpose_rows(const uint8_t* const (&rows)[16],
                                                  __m512i (&out)[16]) {
  transpose_rows(rows, out, [](int j) { return 16 * j; });
}

// Row `row` of an array whose rows are `stride` bytes apart, or zeros behind the last one.
inline const uint8_t* row_or_zeros(const void* base, int64_t stride, int64_t row, int64_t rows) {
  alignas(64) static constexpr uint8_t kZeros[256] = {};  // four quarters, up to 64 apart
  return row < rows ? static_cast<const uint8_t*>(base) + row * stride : kZeros;
}

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
inline int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

// Cuts a call into blocks of tokens and rows, and their columns into panels, and runs
//   operand(token, tokens, begin, width)         the column operand of a panel
//   strips(first, last, tokens, begin, width)    its products: rows [first, last), sums from zero
//                                                where begin is 0
//   finished(first, last, token, tokens)         the sums of a block into y
// The column operand is not made again for the next rows where one panel holds all columns.
template <typename Operand, typename Strips, typename Finished>
void for_each_block(int64_t tokens, int64_t columns, int64_t operand_columns, int64_t panel_unit,
                    int64_t row_begin, int64_t row_end, const Operand& operand,
                    const Strips& strips, const Finished& finished) {
  for (int64_t token = 0; token < tokens; token += kTokenBlock) {
    const int64_t some = at_most(tokens - token, kTokenBlock);
    const int64_t tiles = round_up(some, kTileRows) / kTileRows;
    const int64_t panel = operand_columns / tiles / panel_unit * panel_unit;
    // Whole pairs of strips: what multiplies two at once has no single one in the middle.
    const int64_t block = kSumFloats / (2 * kTileFloats * tiles) * (2 * kTileRows);
    for (int64_t first = row_begin; first < row_end; first += block) {
      const int64_t last = at_most(first + block, row_end);
      for (int64_t begin = 0; begin < columns; begin += panel) {
        const int64_t width = at_most(columns - begin, panel);
        if (first == row_begin || width < columns) operand(token, some, begin, width);
        strips(first, last, some, begin, width);
      }
      finished(first, last, token, some);
    }
  }
}

// The sums of rows [first, last) and `tokens` tokens into y, which starts at the first of them.
inline void store_block(const float* sums, int64_t first, int64_t last, int64_t tokens, float* y,
                        int64_t y_stride) {
  for (int64_t row = first; row < last; row += kTileRows) {
    const auto mask = static_cast<__mmask16>((1u << at_most(last - row, kTileRows)) - 1);
    for (int64_t token = 0; token < tokens; token += kTileRows, sums += kTileFloats) {
      __m512i words[16];
      for (int r = 0; r < 16; ++r) words[r] = _mm512_loadu_si512(sums + 16 * r);
      transpose16(words);
      const int64_t some = at_most(tokens - token, kTileRows);
      for (int64_t t = 0; t < some; ++t) {
        _mm512_mask_storeu_ps(y + (token + t) * y_stride + row, mask,
                              _mm512_castsi512_ps(words[t]));
      }
    }
  }
}
