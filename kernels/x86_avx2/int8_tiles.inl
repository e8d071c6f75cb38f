// Quantized linear layers for many tokens: a tile of rows is unpacked to the stack, transposed so
// that lanes are rows, and multiplied with all tokens.
//
// A tile is kPanelColumns columns of two blocks of 8 rows, [column/4][block][row][4 bytes], 20 KiB
// with its scales and biases. Its words of 4 columns stand in the order of the activations, whose
// words are broadcast. For each group 4 or 6 tokens keep their dot products with both
// blocks in registers; these are then converted, scaled and added to float sums, which one panel
// hands on to the next in y. A row and token's groups are added in ascending order, whatever the
// tile. At 8 bits without AVX-VNNI the two blocks are the low and the high halves of 8 rows' codes.
//
//   operations per 64 weights: 3 to 13 to unpack and 1.5 to 6 to transpose, once; then for each
//   token 2 (AVX-VNNI) or 4 to 5 (AVX2; 9 at 8 bits) for dot products and 0.6 for the scaling at
//   group 64. Bound: dot products; a word of activations is loaded for every two of them.
//   The codes of a whole panel are read row by row, so the next panel is prefetched meanwhile.

constexpr int64_t kPanelColumns = 1024;
// 12 sums, 2 registers of codes, 1 of activations and 1 of products; or 8, 4, 2 and 2.
template <TileForm kForm>
inline constexpr int kMostTokens = kForm == TileForm::kPairs ? 4 : 6;

struct alignas(64) Tile {
  uint8_t codes[kPanelColumns / 4][2][32];
  float scales[kPanelColumns / 32][2][8];
  float biases[kPanelColumns / 32][2][8];
};

template <int kBits, int kGroup>
constexpr GroupWalk group_walk() {
  using Packed = Codes<kBits>;
  if (kGroup < Packed::kColumns) {
    constexpr int kShared = Packed::kColumns / kGroup;
    return {kShared == 4 ? 2 : 1, kGroup / 4, 8 / kShared, Packed::kParts, 8, 1};
  }
  constexpr int kWords = kTileSums<kBits> < kGroup / 4 ? kTileSums<kBits> : kGroup / 4;
  return {0, kGroup / 4, kWords, 1, kWords, kGroup / 4 / kWords};
}

// --- making a tile

// Row i of the result is column i of the 8 x 8 words.
inline void transpose_words(__m256i (&row)[8]) {
  __m256i pair[8], four[8];
  unrolled<4>([&](auto i) __attribute__((always_inline)) {
    pair[2 * i.value] = _mm256_unpacklo_epi32(row[2 * i.value], row[2 * i.value + 1]);
    pair[2 * i.value + 1] = _mm256_unpackhi_epi32(row[2 * i.value], row[2 * i.value + 1]);
  });
  unrolled<4>([&](auto i) __attribute__((always_inline)) {
    constexpr int kFrom = i.value / 2 * 4 + i.value % 2;
    constexpr int kTo = i.value / 2 * 4 + i.value % 2 * 2;
    four[kTo] = _mm256_unpacklo_epi64(pair[kFrom], pair[kFrom + 2]);
    four[kTo + 1] = _mm256_unpackhi_epi64(pair[kFrom], pair[kFrom + 2]);
  });
  unrolled<4>([&](auto i) __attribute__((always_inline)) {
    row[i.value] = _mm256_permute2x128_si256(four[i.value], four[4 + i.value], 0x20);
    row[4 + i.value] = _mm256_permute2x128_si256(four[i.value], four[4 + i.value], 0x31);
  });
}

// The rows and columns of one tile. Lanes behind the last row repeat it; their results are dropped.
struct TileRange {
  int64_t first_row, rows;
  int64_t begin, columns;

  int64_t row(int i) const { return first_row + (i < rows ? i : rows - 1); }
};

// Where 8 rows' codes of one gather are read.
template <int kBits>
class RowsOfCodes {
 public:
  RowsOfCodes(const AffineMatrix& w, const TileRange& range, int block) : bounds_(w) {
    const int64_t row_bytes = w.columns / 8 * kBits;
    // The last gather may begin in this panel and end behind it.
    const int64_t bytes = range.columns / 8 * kBits + kGatherBytes<kBits>;
    for (int i = 0; i < 8; ++i) {
      rows_[i] = w.codes + range.row(8 * block + i) * row_bytes + range.begin / 8 * kBits;
      inside_ = inside_ && bounds_.hold<kBits>(rows_[i], bytes);
    }
  }

  void at(int64_t column, const uint8_t* (&p)[8]) {
    for (int i = 0; i < 8; ++i) p[i] = rows_[i] + column / 8 * kBits;
    if (inside_) return;
    for (int i = 0; i < 8; ++i) p[i] = copies_[i].take(p[i], bounds_);
  }

 private:
  CodeBounds bounds_;
  const uint8_t* rows_[8];
  bool inside_ = true;
  CodesNearEdge<kBits, Codes<kBits>::kColumns> copies_[8];
};

template <int kBits>
void unpack_block(const AffineMatrix& w, const TileRange& range, int block, Tile& tile) {
  using Packed = Codes<kBits>;
  RowsOfCodes<kBits> rows(w, range, block);
  // The panel that is unpacked next: of the same rows, or the first one of the next tile's.
  const int64_t next =
      range.begin + range.columns < w.columns
          ? range.columns / 8 * kBits
          : (8 * kBlocksOf<kTileForm<kBits>> * w.columns - range.begin) / 8 * kBits;
  for (int64_t column = 0; column < range.columns; column += Packed::kColumns) {
    const uint8_t* p[8];
    rows.at(column, p);
    __m256i packed[8];
    unrolled<8>([&](auto i) __attribute__((always_inline)) {
      __builtin_prefetch(p[i.value] + next);
      packed[i.value] = Packed::gather(p[i.value]);
    });
    transpose_words(packed);
    unrolled<Packed::kParts>([&](auto part) __attribute__((always_inline)) {
      unrolled<8>([&](auto i) __attribute__((always_inline)) {
        const __m256i codes = Packed::template part<part.value>(packed[i.value]);
        uint8_t(&out)[2][32] = tile.codes[column / 4 + 8 * part.value + i.value];
        if constexpr (kTileForm<kBits> == TileForm::kHalves) {
          store_bytes(out[0], low_half_bytes(codes));
          store_bytes(out[1], high_half_bytes(codes));
        } else {
          store_bytes(out[block], tile_codes<kBits>(codes));
        }
      });
    });
  }
}

// The scales or biases of 8 rows, times `factor`.
template <FloatType kType>
void transpose_metadata(const AffineMatrix& w, const uint8_t* tensor, const TileRange& range,
                        int block, float factor, float (*out)[2][8]) {
  const Metadata<kType> from(w, tensor);
  const int64_t first = range.begin / w.group;
  const int64_t groups = range.columns / w.group;
  for (int64_t g = 0; g < groups; g += 8) {
    __m256i rows[8];
    for (int i = 0; i < 8; ++i) {
      const __m256 values = from.eight(range.row(8 * block + i), first + g);
      rows[i] = _mm256_castps_si256(_mm256_mul_ps(values, _mm256_set1_ps(factor)));
    }
    transpose_words(rows);
    for (int i = 0; i < 8 && g + i < groups; ++i)
      _mm256_store_ps(out[g + i][block], _mm256_castsi256_ps(rows[i]));
  }
}

template <int kBits>
[[gnu::noinline]] void make_tile(const AffineMatrix& w, const TileRange& range, Tile& tile) {
  for (int block = 0; block < kBlocksOf<kTileForm<kBits>>; ++block) {
    unpack_block<kBits>(w, range, block, tile);
    with_metadata_type(w.metadata, [&]<FloatType kType>() {
      constexpr float kFactor = 1.0f / kTileUnit<kBits>;
      transpose_metadata<kType>(w, w.scales, range, block, kFactor, tile.scales);
      transpose_metadata<kType>(w, w.biases, range, block, 1.0f, tile.biases);
    });
  }
}

// --- multiplying with it

// The first token of a tile, from the tile's first column on.
struct TileTokens {
  const int8_t* codes;
  const float* scales;
  const float* sums;
  const float* residuals;
  int64_t code_stride, group_stride;

  TileTokens(const Int8Activations& x, int64_t token, int64_t column, int64_t group)
      : codes(x.codes + token * x.code_stride + column),
        scales(x.scales + token * x.group_stride + group),
        sums(x.sums + token * x.group_stride + group),
        residuals(x.residuals + token * x.group_stride + group),
        code_stride(x.code_stride),
        group_stride(x.group_stride) {}
};

// Adds a panel to sums[t][b] of kTokens tokens and kBlocks blocks of 8 rows. `middle` is mid of the
// contract times the unit of the tile's codes.
template <TileForm kForm, int kTokens, int kBlocks>
[[gnu::always_inline]] inline void multiply_tile(const Tile& tile, const GroupWalk& walk,
                                                 const TileTokens& x, int64_t groups, float middle,
                                                 __m256 (&sums)[kTokens][kBlocks]) {
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t word = walk.first_word(g);
    GroupProducts<kTokens, kBlocks> products;
    multiply_group<kForm, kTokens>(tile.codes + word, x.codes + 4 * word, x.code_stride, walk,
                                   products);
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int64_t at = t.value * x.group_stride + g;
      const __m256 scale = _mm256_broadcast_ss(x.scales + at);
      const __m256 sum = _mm256_broadcast_ss(x.sums + at);
      const __m256 residual =
          _mm256_mul_ps(_mm256_broadcast_ss(x.residuals + at), _mm256_set1_ps(middle));
      unrolled<kBlocks>([&](auto b) __attribute__((always_inline)) {
        const __m256 product = (__m256)to_float(products[t.value][b.value]);
        const __m256 s_factor = _mm256_fmadd_ps(product, scale, residual);
        const __m256 added = _mm256_fmadd_ps(_mm256_load_ps(tile.scales[g][b.value]), s_factor,
                                             sums[t.value][b.value]);
        sums[t.value][b.value] =
            _mm256_fmadd_ps(_mm256_load_ps(tile.biases[g][b.value]), sum, added);
      });
    });
  }
}

template <TileForm kForm, int kTokens>
void add_tile(const Tile& tile, const GroupWalk& walk, const TileRange& range, int64_t groups,
              float middle, const TileTokens& x, float* y, int64_t y_stride) {
  constexpr int kBlocks = kBlocksOf<kForm>;
  __m256i valid[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    const int64_t rest = range.rows - 8 * b;
    valid[b] = first_lanes(rest < 0 ? 0 : rest < 8 ? rest : 8);
  }
  __m256 sums[kTokens][kBlocks];
  for (int t = 0; t < kTokens; ++t) {
    for (int b = 0; b < kBlocks; ++b) {
      sums[t][b] = range.begin == 0 ? _mm256_setzero_ps()
                                    : _mm256_maskload_ps(y + t * y_stride + 8 * b, valid[b]);
    }
  }
  multiply_tile<kForm>(tile, walk, x, groups, middle, sums);
  for (int t = 0; t < kTokens; ++t) {
    for (int b = 0; b < kBlocks; ++b)
      _mm256_maskstore_ps(y + t * y_stride + 8 * b, valid[b], sums[t][b]);
  }
}

template <TileForm kForm, int kMost = kMostTokens<kForm>, typename... Args>
void add_tile_of(int64_t tokens, const Args&... args) {
  if constexpr (kMost > 1) {
    if (tokens < kMost) return add_tile_of<kForm, kMost - 1>(tokens, args...);
  }
  add_tile<kForm, kMost>(args...);
}

template <int kBits>
void multiply_rows(const AffineMatrix& w, const GroupWalk& walk, const Int8Activations& x,
                   int64_t tokens, float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  constexpr TileForm kForm = kTileForm<kBits>;
  constexpr int64_t kRows = 8 * kBlocksOf<kForm>;
  const float middle = code_middle(kBits) * kTileUnit<kBits>;
  // Tokens in tiles of about the same size.
  const int64_t tiles = (tokens + kMostTokens<kForm> - 1) / kMostTokens<kForm>;
  Tile tile;
  for (int64_t row = row_begin; row < row_end; row += kRows) {
    for (int64_t begin = 0; begin < w.columns; begin += kPanelColumns) {
      const int64_t rest = w.columns - begin;
      const TileRange range = {row, row_end - row < kRows ? row_end - row : kRows, begin,
                               rest < kPanelColumns ? rest : kPanelColumns};
      make_tile<kBits>(w, range, tile);
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t first = i * tokens / tiles;
        add_tile_of<kForm>(
            (i + 1) * tokens / tiles - first, tile, walk, range, range.columns / w.group, middle,
            TileTokens(x, first, begin, begin / w.group), y + first * y_stride + row, y_stride);
      }
    }
  }
}
