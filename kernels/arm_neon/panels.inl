// y = W x for 5 and more tokens: a block of rows of a panel of 1024 columns is unpacked to the
// stack in tiles of 8 rows, then used for all tokens, up to 4 at a time in registers.
//
// A row's result is the sum of its panels in ascending order; within a panel the groups are added
// in ascending order, products before z-terms, by one chain per (row, token). Neither the number of
// tokens nor the range of rows changes a bit: a tile that has fewer rows or tokens than it could
// hold computes the others twice and drops them.
//
// A level's Tiles<kOrder, kGroup> brings
//   kBlockTiles           tiles that are unpacked together; the tokens are prepared once for all
//   kUnit                 tokens that a register of sums holds
//   Weights::load<kBits>(w, rows, begin, columns)   8 rows of a panel
//   Tokens::load(x, mid, first, count, begin, columns)   up to 4 tokens of it
//   multiply(weights, tokens, count, groups, part)   part[t * kTileRows + r], for `count` tokens

constexpr int kTileRows = 8;
constexpr int kTileTokens = 4;
constexpr int64_t kPanel = 1024;

// A part of a block (16 codes) is cut into kPieces; this is the piece of step `step` when the
// pieces of a group follow one another.
struct Piece {
  int part, index;
};
template <ActivationOrder kOrder, int kGroup, int kPieces>
constexpr Piece piece_of(int step) {
  if (kGroup == 32 && kOrder != ActivationOrder::kNatural) {
    const int half = step / (2 * kPieces);
    const int i = step % (2 * kPieces);
    if (kOrder == ActivationOrder::kNibbles) return {half + i / kPieces * 2, i % kPieces};
    constexpr int kPer = kPieces / 2;
    return {i / kPer, half * kPer + i % kPer};
  }
  return {step / kPieces, step % kPieces};
}

// Eight rows from `first`; a row past `end` is the last one once more.
struct TileRows {
  int64_t row[kTileRows];
  TileRows(int64_t first, int64_t end) {
    for (int r = 0; r < kTileRows; ++r) row[r] = first + r < end ? first + r : end - 1;
  }
};

// store(b, blocks) for every block of the panel, `blocks` being that of kRows rows from
// rows.row[at].
template <int kBits, int kRows, typename Store>
[[gnu::always_inline]] inline void unpack_blocks(const AffineMatrix& w, const TileRows& rows,
                                                 int at, int64_t begin, int64_t columns,
                                                 Store&& store) {
  const uint8_t* codes[kRows];
  for (int r = 0; r < kRows; ++r)
    codes[r] = w.codes + (rows.row[at + r] * w.columns + begin) / 8 * kBits;
  const auto unpack = [&](int64_t b, auto load) __attribute__((always_inline)) {
    Block blocks[kRows];
    for (int r = 0; r < kRows; ++r) {
      blocks[r] = load(codes[r] + b * 8 * kBits);
      for (uint8x16_t& part : blocks[r].part) part = operand<kBits>(part);
    }
    store(b, blocks);
  };
  const int64_t whole = columns / kBlock;
  for (int64_t b = 0; b < whole; ++b)
    unpack(b, [](const uint8_t* p) { return load_block<kBits>(p); });
  if (columns % kBlock != 0)
    unpack(whole, [](const uint8_t* p) { return load_block<kBits>(HalfBlock<kBits>(p).bytes); });
}

inline void transpose(float32x4_t (&v)[4]) {
  const float32x4_t a = vtrn1q_f32(v[0], v[1]), b = vtrn2q_f32(v[0], v[1]);
  const float32x4_t c = vtrn1q_f32(v[2], v[3]), d = vtrn2q_f32(v[2], v[3]);
  const auto pair = [](float32x4_t x, float32x4_t y, auto zip) {
    return vreinterpretq_f32_f64(zip(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
  };
  const auto low = [](float64x2_t x, float64x2_t y) { return vzip1q_f64(x, y); };
  const auto high = [](float64x2_t x, float64x2_t y) { return vzip2q_f64(x, y); };
  v[0] = pair(a, c, low);
  v[1] = pair(b, d, low);
  v[2] = pair(a, c, high);
  v[3] = pair(b, d, high);
}

// store(g, values) for the `groups` groups from `group` on (and zeros up to a whole strip): the
// values of rows at .. at + 3.
template <typename Store>
[[gnu::always_inline]] inline void unpack_metadata(const uint8_t* values, const AffineMatrix& w,
                                                   const TileRows& rows, int at, int64_t group,
                                                   int64_t groups, Store&& store) {
  const int64_t bytes = bytes_of(w.metadata);
  for (int64_t g = 0; g < groups; g += kStrip) {
    const int64_t n = groups - g < kStrip ? groups - g : kStrip;
    Strip strips[4];
    for (int r = 0; r < 4; ++r) {
      const int64_t first = rows.row[at + r] * (w.columns / w.group) + group + g;
      strips[r] = load_strip(values + first * bytes, w.metadata, n);
    }
    for (int i = 0; i < 2; ++i) {
      float32x4_t lanes[4] = {strips[0].half[i], strips[1].half[i], strips[2].half[i],
                              strips[3].half[i]};
      transpose(lanes);
      for (int k = 0; k < 4; ++k) store(g + 4 * i + k, lanes[k]);
    }
  }
}

template <int kBits, typename Tiles>
void multiply_panels(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                     int64_t y_stride, int64_t row_begin, int64_t row_end) {
  constexpr int64_t kBlockRows = Tiles::kBlockTiles * kTileRows;
  constexpr int64_t kMostUnits = kTileTokens / Tiles::kUnit;
  const int64_t units = (tokens + Tiles::kUnit - 1) / Tiles::kUnit;
  typename Tiles::Weights tiles[Tiles::kBlockTiles];
  typename Tiles::Tokens some;
  float part[kTileTokens * kTileRows];
  for (int64_t first = row_begin; first < row_end; first += kBlockRows) {
    const int64_t rows = row_end - first < kBlockRows ? row_end - first : kBlockRows;
    for (int64_t begin = 0; begin < w.columns; begin += kPanel) {
      const int64_t columns = w.columns - begin < kPanel ? w.columns - begin : kPanel;
      for (int64_t r = 0; r < rows; r += kTileRows)
        tiles[r / kTileRows].template load<kBits>(w, TileRows(first + r, row_end), begin, columns);
      // Tiles of tokens are as even as they can be: 5 tokens are 3 and 2.
      int64_t left = (units + kMostUnits - 1) / kMostUnits;
      int64_t count = 0;
      for (int64_t t = 0; t < tokens; t += count, --left) {
        const int64_t rest = (tokens - t + Tiles::kUnit - 1) / Tiles::kUnit;
        count = (rest + left - 1) / left * Tiles::kUnit;
        if (count > tokens - t) count = tokens - t;
        some.load(x, code_middle(kBits), t, static_cast<int>(count), begin, columns);
        for (int64_t r = 0; r < rows; r += kTileRows) {
          Tiles::multiply(tiles[r / kTileRows], some, static_cast<int>(count), columns / w.group,
                          part);
          const int64_t width = rows - r < kTileRows ? rows - r : kTileRows;
          for (int64_t i = 0; i < count; ++i) {
            float* out = y + (t + i) * y_stride + first + r;
            for (int64_t j = 0; j < width; ++j)
              out[j] = (begin == 0 ? 0.0f : out[j]) + part[i * kTileRows + j];
          }
        }
      }
    }
  }
}
