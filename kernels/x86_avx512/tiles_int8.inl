// Linear layers on int8 activations for many tokens: a block of rows is unpacked once and used for
// all tokens, with rows as lanes, so that there are no horizontal sums.
//
// A block is kBlockLanes rows x kBlockColumns columns, in the innermost caches:
//
//     codes   [columns/4][row half: 2][16 rows][4 bytes]     32 KiB
//     scales  [groups][32 rows] f32, biases likewise         2 to 4 KiB each
//
// Unpacking turns 16 rows x 16 words around while they are packed: 4 operations per 64 bytes of
// codes. Then every 64 weights take 2 operations (none at 8 bits), and one more where they cross a
// word. For 2 x 16 rows and up to 6 tokens in registers:
//
//     4 columns:  2 loads of codes, 1 broadcast load a token, 2 dot products a token
//     a group:    2 x (1 conversion, 3 multiply-adds) a token
//
// At g = 64 and 6 tokens 192 dot products stand beside 48 other operations: 80 % of the peak of the
// dot product is the limit (84 % where conversions have a pipe of their own, as on Zen 4), and 512
// tokens reach 74 % there, unpacking and writing included; at g = 128 81 %. At 16 tokens unpacking
// takes a sixth of the time, at 512 tokens 2 %.
//
// Sums of up to kTokenBlock tokens (32 KiB) wait in L2 for the next columns of the rows; more
// tokens unpack the rows again.
//
// Order of sums: groups one after another in a lane.

constexpr int kBlockColumns = 1024;
constexpr int kMostTokens = 6;
constexpr int kTokenBlock = 256;
// Steps of 4 columns whose code is written out: compilers carry sums through a loop by copies.
constexpr int kMostUnrolled = 16;

struct RowTile {
  alignas(64) uint8_t codes[kBlockColumns / 4][2][64];
  alignas(64) float scales[kBlockColumns / 32][kBlockLanes];
  alignas(64) float biases[kBlockColumns / 32][kBlockLanes];
};

// Codes of 16 rows as they are stored, but turned around: [word of a row][16 rows].
template <int kBits>
struct PackedWords {
  alignas(64) uint8_t words[kBlockColumns / 32 * kBits][64];
};

// Asks the memory for the next block of rows while this one is multiplied, a few lines at a time:
// all at once would wait for the memory, and the order in which a block is read, piece by piece of
// many rows, is no stream that a hardware prefetcher would follow. Its rows lie behind one another,
// and so do their scales and biases.
class NextRows {
 public:
  // fetch() will be called `calls` times.
  NextRows(const AffineMatrix& w, int64_t first_row, int64_t calls) {
    const int64_t rows = w.rows - first_row < kBlockLanes ? w.rows - first_row : kBlockLanes;
    if (rows <= 0) return;
    const int64_t row_bytes = w.columns / 8 * w.bits;
    const int64_t metadata_bytes = w.columns / w.group * (w.metadata == FloatType::kF32 ? 4 : 2);
    part_[0] = {w.codes + first_row * row_bytes, rows * row_bytes};
    part_[1] = {w.scales + first_row * metadata_bytes, rows * metadata_bytes};
    part_[2] = {w.biases + first_row * metadata_bytes, rows * metadata_bytes};
    const int64_t lines = (part_[0].bytes + 2 * part_[1].bytes) / 64 + kParts;
    lines_ = (lines + calls - 1) / calls;
  }

  [[gnu::always_inline]] void fetch() {
    for (int64_t i = 0; i < lines_; ++i) {
      if (at_ >= part_[now_].bytes) {
        if (now_ + 1 == kParts) {
          lines_ = 0;
          return;
        }
        ++now_;
        at_ = 0;
      }
      __builtin_prefetch(part_[now_].begin + at_);
      at_ += 64;
    }
  }

 private:
  static constexpr int kParts = 3;
  struct Part {
    const uint8_t* begin = nullptr;
    int64_t bytes = 0;
  };
  Part part_[kParts];
  int now_ = 0;
  int64_t at_ = 0, lines_ = 0;
};

template <int kBits>
void turn_words(const AffineMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                int64_t words, PackedWords<kBits>& packed) {
  const int64_t row_bytes = w.columns / 8 * kBits;
  const uint8_t* rows[16];
  for (int r = 0; r < 16; ++r)
    rows[r] = w.codes + row_in_range(first_row + r, row_end) * row_bytes + begin / 8 * kBits;
  for (int64_t at = 0; at < words; at += 16) {
    const int64_t left = words - at;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    __m512i part[16];
    unrolled<16>([&](auto r) __attribute__((always_inline)) {
      part[r.value] = _mm512_maskz_loadu_epi32(mask, rows[r.value] + 4 * at);
    });
    transpose16(part);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(packed.words[at + i], part[i]);
  }
}

// Which activations a step's four codes are of, a group's steps behind one another; where the order
// is wide, phase by phase.
template <int kBits, int kGroup>
struct Steps {
  static constexpr int kCount = kGroup / 4;
  static constexpr int kWords = kIsWide<kBits> ? kCount / kPhases<kBits> : kCount;  // of a phase
  static constexpr int kWritten = kCount < kMostUnrolled ? kCount : kMostUnrolled;
  // Activations that the written steps advance by.
  static constexpr int kPassed = kIsWide<kBits> ? 64 * kWritten / kWords : 4 * kWritten;
  // Of the activations of `step` behind those of the group.
  static constexpr int offset(int step) { return step / kWords * 64 + step % kWords * 4; }
  static constexpr int64_t group_offset(int64_t group) {
    return WordUnit<kBits>::group_offset(group, kGroup);
  }
};

// Widths in the order of the columns share their code.
template <int kBits, int kGroup>
using TileSteps = Steps<kIsWide<kBits> ? kBits : 8, kGroup>;

// kColumns columns of 16 rows: a group if the order of its activations is wide, whose codes stand
// phase by phase then.
template <int kBits, int kColumns>
[[gnu::always_inline]] inline void unpack_words(const uint8_t (*words)[64], uint8_t (*codes)[2][64],
                                                int half) {
  constexpr int kSteps = kColumns / 4, kEach = kIsWide<kBits> ? kPhases<kBits> : 1;
  unrolled<kSteps>([&](auto i) __attribute__((always_inline)) {
    constexpr int kAt = i.value % kEach * (kSteps / kEach) + i.value / kEach;
    _mm512_store_si512(codes[kAt][half], step_codes<kBits, i.value, 64>(words[0]));
  });
}

template <int kBits, int kGroup>
void unpack_tile(const AffineMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                 int64_t columns, RowTile& tile) {
  constexpr int kColumns = kIsWide<kBits> ? kGroup : 32;
  PackedWords<kBits> packed;
  for (int half = 0; half < 2; ++half) {
    turn_words<kBits>(w, first_row + 16 * half, row_end, begin, columns / 32 * kBits, packed);
    for (int64_t c = 0; c < columns; c += kColumns) {
      unpack_words<kBits, kColumns>(packed.words + c / 32 * kBits, tile.codes + c / 4, half);
    }
  }
}

// Adds the tile's share to sums for kTokens tokens; `fresh` starts from zero instead.
template <typename S, int kTokens>
void multiply_tile_int8(const RowTile& tile, int64_t groups, float middle, const Int8Activations& x,
                        float (*sums)[kBlockLanes], bool fresh, NextRows& next) {
  __m512 sum[kTokens][2];
  unrolled<2 * kTokens>([&](auto i) __attribute__((always_inline)) {
    constexpr int kToken = i.value / 2, kHalf = i.value % 2;
    sum[kToken][kHalf] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(sums[kToken] + 16 * kHalf);
  });
  // Multiplied by the middle once for all groups: one by one they would take the pipes of the dots.
  alignas(64) float residuals[kTokens][kBlockColumns / 32];
  for (int t = 0; t < kTokens; ++t) {
    for (int64_t g = 0; g < groups; g += 16) {
      const int64_t left = groups - g;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
      const __m512 some = _mm512_maskz_loadu_ps(mask, x.residuals + t * x.group_stride + g);
      _mm512_store_ps(residuals[t] + g, _mm512_mul_ps(some, _mm512_set1_ps(middle)));
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    __m512i dots[kTokens][2];
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      dots[t.value][0] = dots[t.value][1] = _mm512_setzero_si512();
    });
    next.fetch();
    const uint8_t* codes = tile.codes[g * S::kCount][0];
    // Two addresses and a stride reach all tokens without a register each.
    const int64_t stride = x.code_stride;
    const int8_t* low = x.codes + S::group_offset(g);
    const int8_t* high = low + 3 * stride;
    for (int k = 0; k < S::kCount; k += S::kWritten) {
      unrolled<S::kWritten>([&](auto step) __attribute__((always_inline)) {
        constexpr int kAt = step.value;
        const __m512i w0 = _mm512_load_si512(codes + 128 * kAt);
        const __m512i w1 = _mm512_load_si512(codes + 128 * kAt + 64);
        unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
          constexpr int kT = t.value;
          const int8_t* at = kT < 3 ? low + kT * stride : high + (kT - 3) * stride;
          const __m512i four = _mm512_set1_epi32(load_bits<int32_t>(at + S::offset(kAt)));
          dots[kT][0] = _mm512_dpbusd_epi32(dots[kT][0], w0, four);
          dots[kT][1] = _mm512_dpbusd_epi32(dots[kT][1], w1, four);
        });
      });
      codes += 128 * S::kWritten;
      low += S::kPassed;
      high += S::kPassed;
    }
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int64_t at = t.value * x.group_stride + g;
      const __m512 d = _mm512_set1_ps(x.scales[at]);
      const __m512 residual = _mm512_set1_ps(residuals[t.value][g]);
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

template <typename S, int kTokens = kMostTokens, typename... Rest>
void multiply_tokens(int64_t tokens, NextRows& next, const Rest&... rest) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return multiply_tokens<S, kTokens - 1>(tokens, next, rest...);
  }
  multiply_tile_int8<S, kTokens>(rest..., next);
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
  NextRows next(w, first_row + kBlockLanes, tiles * (w.columns / kGroup));
  for (int64_t begin = 0; begin < w.columns; begin += kBlockColumns) {
    const int64_t columns = w.columns - begin < kBlockColumns ? w.columns - begin : kBlockColumns;
    unpack_tile<kBits, kGroup>(w, first_row, row_end, begin, columns, tile);
    turn_block_metadata(w, first_row, row_end, begin, columns, tile.scales, tile.biases);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t t = i * tokens / tiles;
      multiply_tokens<TileSteps<kBits, kGroup>>(
          (i + 1) * tokens / tiles - t, next, tile, columns / kGroup, code_middle(kBits),
          activations_from(x, t, begin, kGroup), sums + t, begin == 0);
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
    for (int64_t t = 0; t < tokens; t += kTokenBlock) {
      const int64_t some = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      multiply_block<kBits, kGroup>(w, activations_from(x, t, 0, kGroup), some, first, row_end,
                                    sums);
      write_block(sums, some, first, row_end, y + t * y_stride, y_stride);
    }
  }
}
