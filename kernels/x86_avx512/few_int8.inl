// Linear layers on int8 activations for 5 to 8 tokens: rows are lanes, as in the tiles of many
// tokens, but codes are unpacked where they are multiplied, and the words of the next columns are
// turned around between the dot products of these.
//
//     words   [16][row half: 2][16 rows][4 bytes]     2 KiB a slab; one is read, one is written
//     quads   the same after half of the turning      2 KiB
//
// For 32 rows x 64 columns of b bits and T tokens:
//
//     dot products   32 T, with a broadcast load for two of them
//     unpacking      32 times 2 operations, 3 where a step crosses a word, none at 8 bits
//     turning        16 b shuffles, 8 b loads and 8 b stores
//     a group        2 T times 1 conversion and 3 multiply-adds; the sums wait in L1
//
// Limit: the dot product, of which 8 tokens at g = 64 reach 62 % at 4 bits and 59 % at 3 bits on
// Zen 4, where multiply-adds and the multishift of 3 bits share its pipes; tiles, which turn and
// unpack at one go, reach 47 % there. Shuffles and dot products have pipes of their own on these
// cores, and a reordering window is too short to mix what does not stand mixed in the code.
//
// Order of sums: groups one after another in a lane, as in tiles.

constexpr int kFewTokens = 8;

// Words of the rows of a range in blocks of kBlockLanes, slab by slab: turned around in kParts
// parts while the slab before is read.
template <int kBits>
class TurnedSlabs {
 public:
  using Unit = WordUnit<kBits>;
  static constexpr int kUnits = 16 / Unit::kWords;
  static constexpr int kParts = 16;
  static constexpr int kPartsAUnit = (kParts + kUnits - 1) / kUnits;
  static constexpr int kStride = 128;  // bytes between the words of a row

  TurnedSlabs(const AffineMatrix& w, int64_t row_begin, int64_t row_end)
      : codes_(w.codes),
        row_bytes_(w.columns / 8 * kBits),
        first_row_(row_begin),
        row_end_(row_end) {
    point_at_rows();
    enter_slab();
    take_next();
  }

  // The next unit of the block; behind its last one next_block() goes on.
  [[gnu::always_inline]] const uint8_t* next_unit() {
    if (unit_ == kUnits) take_next();
    return ready_[unit_++ * Unit::kWords][0];
  }
  void next_block() { take_next(); }

  // One of kParts parts of the slab behind the one that is read.
  [[gnu::always_inline]] void turn_part() {
    const unsigned part = part_++;
    const unsigned half = part / 4 % 2, quarter = part % 4;
    fetch(part);
    if (part < kParts / 2) {
      turn_rows(rows_ + 16 * half + 4 * quarter, quads_[half] + 4 * quarter);
    } else if (part < kParts) {
      turn_quads(quads_[half] + quarter, coming_ + quarter, half);
    }
  }

 private:
  static constexpr int kWords = kUnits * Unit::kWords;
  static constexpr int kBytesAhead = 256;

  // Asks the memory for what is turned next. Narrow codes: the block behind this one, whose rows
  // lie behind one another, in that order, which hardware follows. Blocks of wide codes are too
  // large to wait in the caches (448 KiB at 8 bits and 14336 columns): two rows a few lines ahead,
  // into L2, because lines of 32 rows may share the sets of L1. On Zen 4 at 8 tokens the first is
  // up to 8 % faster at 2 to 4 bits, the second up to 20, 40 and 60 % at 5, 6 and 8 bits.
  [[gnu::always_inline]] void fetch(unsigned part) {
    if constexpr (kBits > 4) {
      constexpr int kToL2 = 2;
      __builtin_prefetch(rows_[2 * part % kBlockLanes] + byte_ + ahead_, 0, kToL2);
      __builtin_prefetch(rows_[(2 * part + 1) % kBlockLanes] + byte_ + ahead_, 0, kToL2);
      return;
    }
    if (fetch_ >= fetch_end_) return;
    __builtin_prefetch(fetch_);
    __builtin_prefetch(fetch_ + 64);
    fetch_ += kBlockLanes * 64 / kParts;
  }

  // 4 rows of words into the quads of their quarter.
  [[gnu::always_inline]] void turn_rows(const uint8_t* const* rows, uint8_t (*quads)[64]) const {
    __m512i row[4], quad[4];
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      row[i.value] = _mm512_maskz_loadu_epi32(words_left_, rows[i.value] + byte_);
    });
    turn_lanes(row, quad);
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      _mm512_store_si512(quads[i.value], quad[i.value]);
    });
  }

  // Words c, 4 + c, 8 + c and 12 + c of 16 rows from the quads c of their quarters.
  [[gnu::always_inline]] static void turn_quads(const uint8_t (*quads)[64], uint8_t (*words)[2][64],
                                                unsigned half) {
    __m512i quad[4], word[4];
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      quad[i.value] = _mm512_load_si512(quads[4 * i.value]);
    });
    gather_lanes(quad, word);
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      _mm512_store_si512(words[4 * i.value][half], word[i.value]);
    });
  }

  // The slab that is being turned becomes the one to read; behind the last of the range comes the
  // first of its last block again, which nobody reads. Out of line: it stands in three places.
  [[gnu::noinline]] void take_next() {
    while (part_ < kParts) turn_part();
    uint8_t(*const read)[2][64] = ready_;
    ready_ = coming_;
    coming_ = read;
    part_ = unit_ = 0;
    byte_ += 4 * kWords;
    if (byte_ >= row_bytes_) {
      byte_ = 0;
      if (first_row_ + kBlockLanes < row_end_) first_row_ += kBlockLanes;
      point_at_rows();
    }
    enter_slab();
  }

  void point_at_rows() {
    for (int r = 0; r < kBlockLanes; ++r)
      rows_[r] = codes_ + row_in_range(first_row_ + r, row_end_) * row_bytes_;
    const int64_t left = row_end_ - first_row_ - kBlockLanes;
    fetch_ = rows_[kBlockLanes - 1] + row_bytes_;
    fetch_end_ =
        left <= 0 ? fetch_ : fetch_ + (left < kBlockLanes ? left : kBlockLanes) * row_bytes_;
  }

  // What there is to turn of each row, and what to ask for meanwhile: at its end a row goes on with
  // that of the next block.
  void enter_slab() {
    const int64_t left = row_bytes_ - byte_, words = left / 4;
    words_left_ = static_cast<__mmask16>((1 << (words < kWords ? words : kWords)) - 1);
    ahead_ = kBytesAhead + (kBytesAhead < left ? 0 : (kBlockLanes - 1) * row_bytes_);
  }

  alignas(64) uint8_t slabs_[2][16][2][64];
  alignas(64) uint8_t quads_[2][16][64];
  const uint8_t* rows_[kBlockLanes];
  const uint8_t* codes_;
  int64_t row_bytes_;
  int64_t first_row_, row_end_;  // of the block that is being turned
  int64_t byte_ = 0;             // of its rows
  int64_t ahead_ = 0;            // bytes from there to what is asked for
  const uint8_t *fetch_ = nullptr, *fetch_end_ = nullptr;
  uint8_t (*ready_)[2][64] = slabs_[0];
  uint8_t (*coming_)[2][64] = slabs_[1];
  unsigned part_ = 0, unit_ = 0;
  __mmask16 words_left_ = 0;
};

// What a block of rows has beside codes: its sums, and 16 groups' scales and biases.
template <int kTokens>
struct FewBlock {
  static constexpr int kSpanGroups = 16;
  alignas(64) float sums[kTokens][kBlockLanes];
  alignas(64) float residuals[kTokens][kSpanGroups];  // times the middle of the codes
  alignas(64) float scales[kSpanGroups][kBlockLanes], biases[kSpanGroups][kBlockLanes];
};

// Locals of the loop over groups: registers, as long as every index into them is a constant.
template <int kTokens>
using BlockDots = __m512i[kTokens][2];

// Three addresses and a stride reach all tokens without a register each.
struct TokenCodes {
  const int8_t *low, *high, *top;
  int64_t stride;

  TokenCodes(const Int8Activations& x, int64_t first)
      : low(x.codes + first),
        high(low + 3 * x.code_stride),
        top(high + 3 * x.code_stride),
        stride(x.code_stride) {}
  template <int kToken>
  [[gnu::always_inline]] const int8_t* of() const {
    return (kToken < 3 ? low : kToken < 6 ? high : top) + kToken % 3 * stride;
  }
  [[gnu::always_inline]] void pass(int codes) {
    low += codes;
    high += codes;
    top += codes;
  }
};

template <int kBits, int kTokens>
[[gnu::always_inline]] inline void add_unit(const uint8_t* words, const TokenCodes& x,
                                            TurnedSlabs<kBits>& slabs, BlockDots<kTokens>& dots) {
  using Unit = WordUnit<kBits>;
  constexpr int kParts = TurnedSlabs<kBits>::kPartsAUnit;
  constexpr int kStride = TurnedSlabs<kBits>::kStride;
  unrolled<Unit::kSteps>([&](auto step) __attribute__((always_inline)) {
    constexpr int kAt = step.value;
    const __m512i w0 = step_codes<kBits, kAt, kStride>(words);
    const __m512i w1 = step_codes<kBits, kAt, kStride>(words + 64);
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int8_t* at = x.template of<t.value>() + Unit::offset(kAt);
      const __m512i four = _mm512_set1_epi32(load_bits<int32_t>(at));
      dots[t.value][0] = _mm512_dpbusd_epi32(dots[t.value][0], w0, four);
      dots[t.value][1] = _mm512_dpbusd_epi32(dots[t.value][1], w1, four);
    });
    if constexpr ((kAt + 1) * kParts / Unit::kSteps > kAt * kParts / Unit::kSteps)
      slabs.turn_part();
  });
}

// Adds a group, the g-th of its span: `at` is its place in the arrays of x.
template <int kTokens>
[[gnu::always_inline]] inline void add_dots(const BlockDots<kTokens>& dots,
                                            const Int8Activations& x, int64_t at, int64_t g,
                                            FewBlock<kTokens>& block) {
  const __m512 s0 = _mm512_load_ps(block.scales[g]), s1 = _mm512_load_ps(block.scales[g] + 16);
  const __m512 z0 = _mm512_load_ps(block.biases[g]), z1 = _mm512_load_ps(block.biases[g] + 16);
  unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
    constexpr int kT = t.value;
    const __m512 d = _mm512_set1_ps(x.scales[at + kT * x.group_stride]);
    const __m512 residual = _mm512_set1_ps(block.residuals[kT][g]);
    const __m512 group_sum = _mm512_set1_ps(x.sums[at + kT * x.group_stride]);
    float* const sum = block.sums[kT];
    const __m512 dot0 = _mm512_cvtepi32_ps(dots[kT][0]), dot1 = _mm512_cvtepi32_ps(dots[kT][1]);
    const __m512 total0 =
        _mm512_fmadd_ps(_mm512_fmadd_ps(dot0, d, residual), s0, _mm512_load_ps(sum));
    const __m512 total1 =
        _mm512_fmadd_ps(_mm512_fmadd_ps(dot1, d, residual), s1, _mm512_load_ps(sum + 16));
    _mm512_store_ps(sum, _mm512_fmadd_ps(z0, group_sum, total0));
    _mm512_store_ps(sum + 16, _mm512_fmadd_ps(z1, group_sum, total1));
  });
}

// `groups` groups from `first` on, the span of the block. A function of its own: compilers that see
// where the block lies carry its parts through the loop.
template <int kBits, int kTokens>
[[gnu::noinline]] void add_span(TurnedSlabs<kBits>& slabs, const Int8Activations& x, int group,
                                int64_t first, int64_t groups, FewBlock<kTokens>& block) {
  using Unit = WordUnit<kBits>;
  const int units = group / Unit::kColumns;
  for (int64_t g = 0; g < groups; ++g) {
    BlockDots<kTokens> dots;
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      dots[t.value][0] = dots[t.value][1] = _mm512_setzero_si512();
    });
    TokenCodes codes(x, Unit::group_offset(first + g, group));
    for (int u = 0; u < units; ++u) {
      add_unit<kBits, kTokens>(slabs.next_unit(), codes, slabs, dots);
      codes.pass(Unit::kPassed);
    }
    add_dots<kTokens>(dots, x, first + g, g, block);
  }
}

// Asks the memory for the scales and biases of the next block at the place of `groups` groups from
// `first` on: rows of metadata lie behind one another, so any division of the block will do.
inline void fetch_next_metadata(const AffineMatrix& w, int64_t row, int64_t row_end, int64_t first,
                                int64_t groups) {
  const int64_t rows = row_end - row - kBlockLanes;
  if (rows <= 0) return;
  const int64_t size = w.metadata == FloatType::kF32 ? 4 : 2;
  const int64_t some = rows < kBlockLanes ? rows : kBlockLanes;
  const int64_t begin = ((row + kBlockLanes) * (w.columns / w.group) + first * some) * size;
  for (int64_t at = 0; at < groups * some * size; at += 64) {
    __builtin_prefetch(w.scales + begin + at);
    __builtin_prefetch(w.biases + begin + at);
  }
}

// The rows of a range for kTokens tokens. Groups differ in their number of units only, so their
// size is no part of the type: code of all sizes would fill the instruction caches.
template <int kBits, int kTokens>
void multiply_few(const AffineMatrix& w, const Int8Activations& x, float* y, int64_t y_stride,
                  int64_t row_begin, int64_t row_end) {
  using Block = FewBlock<kTokens>;
  if (row_begin >= row_end) return;
  const int64_t groups = w.columns / w.group;
  const __m512 middle = _mm512_set1_ps(code_middle(kBits));
  TurnedSlabs<kBits> slabs(w, row_begin, row_end);
  Block block;
  for (int64_t first = row_begin; first < row_end; first += kBlockLanes) {
    for (auto& sum : block.sums) {
      _mm512_store_ps(sum, _mm512_setzero_ps());
      _mm512_store_ps(sum + 16, _mm512_setzero_ps());
    }
    for (int64_t span = 0; span < groups; span += Block::kSpanGroups) {
      const int64_t some = groups - span < Block::kSpanGroups ? groups - span : Block::kSpanGroups;
      turn_block_metadata(w, first, row_end, span * w.group, some * w.group, block.scales,
                          block.biases);
      fetch_next_metadata(w, first, row_end, span, some);
      for (int t = 0; t < kTokens; ++t) {  // rows of x are padded to whole spans
        const __m512 residuals = _mm512_loadu_ps(x.residuals + t * x.group_stride + span);
        _mm512_store_ps(block.residuals[t], _mm512_mul_ps(residuals, middle));
      }
      add_span<kBits, kTokens>(slabs, x, w.group, span, some, block);
    }
    slabs.next_block();
    write_block(block.sums, kTokens, first, row_end, y, y_stride);
  }
}

template <int kBits, int kTokens = kFewTokens>
void few_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
              int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if constexpr (kTokens > kDecodeTokens + 1) {
    if (tokens < kTokens)
      return few_int8<kBits, kTokens - 1>(w, x, tokens, y, y_stride, row_begin, row_end);
  }
  multiply_few<kBits, kTokens>(w, x, y, y_stride, row_begin, row_end);
}
