// Dot products of unsigned codes and signed activations, 4 columns a 32-bit lane.
//
//   operations per 32 products   AVX-VNNI   1
//                                AVX2       2 and a part of 2 (products of pairs, their sum in 16
//                                           bits, now and then its widening); 4.5 at 8 bits
//
// Without AVX-VNNI pairs are added in 16 bits, which hold only a few sums of two products. At 8
// bits not even one fits: codes are parted into halves of 4 bits.
//
// For decode dot() multiplies kRegisters of 32 codes of one row; for tiles multiply_group() goes
// over the words of one group (GroupWalk), each for 2 x 8 rows and kTokens tokens.

// Where the words of a group stand in a panel, the same for tiles and activations.
struct GroupWalk {
  int shared_log2;  // 2^this groups stand in turn, in a first run of words each, a second, ...
  int group_words;
  int words;   // of a run
  int runs;    // of a chunk, whose sums fit 16 bits
  int stride;  // from run to run, in words
  int chunks;

  int64_t first_word(int64_t group) const {
    const int64_t in_turn = group & ((1 << shared_log2) - 1);
    return (group - in_turn) * group_words + in_turn * words;
  }
};

// What a tile's two blocks of 8 rows are.
enum class TileForm : uint8_t {
  kRows,    // 16 rows
  kPairs,   // 16 rows whose words are multiplied two by two, as few sums fit 16 bits
  kHalves,  // the low and the high halves of the codes of 8 rows
};
template <TileForm kForm>
inline constexpr int kBlocksOf = kForm == TileForm::kHalves ? 1 : 2;

template <int kTokens, int kBlocks>
using GroupProducts = vi[kTokens][kBlocks];

inline __m256i broadcast_word(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm256_set1_epi32(word);
}

#if defined(__AVXVNNI__)

// Words of a tile whose sums may be added before they are widened: all.
template <int kBits>
inline constexpr int kTileSums = 32;
template <int kBits>
inline constexpr TileForm kTileForm = TileForm::kRows;
template <int kBits>
inline constexpr int kTileUnit = Codes<kBits>::kUnit;
template <int kBits>
inline __m256i tile_codes(__m256i codes) {
  return codes;
}

// Sums stay vectors of integers: between that and the untyped __m256i GCC 12 copies registers in
// every turn of a loop.
inline vi add_dots(vi sum, __m256i codes, __m256i x) {
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, codes, x);
}

template <int kBits, int kRegisters>
inline vi dot(const __m256i* codes, const int8_t* x) {
  vi sum{};
  unrolled<kRegisters>([&](auto i) __attribute__((always_inline)) {
    sum = add_dots(sum, codes[i.value], load_bytes(x + 32 * i.value));
  });
  return sum;
}

template <TileForm kForm, int kTokens>
[[gnu::always_inline]] inline void multiply_group(const uint8_t (*codes)[2][32], const int8_t* x,
                                                  int64_t x_stride, const GroupWalk& walk,
                                                  GroupProducts<kTokens, 2>& products) {
  static_assert(kForm == TileForm::kRows);
  vi sums[kTokens][2] = {};
  for (int run = 0; run < walk.runs; ++run) {
    const int64_t first = static_cast<int64_t>(run) * walk.stride;
    for (int64_t i = first; i < first + walk.words; ++i) {
      const __m256i block0 = load_bytes(codes[i][0]), block1 = load_bytes(codes[i][1]);
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        const __m256i word = broadcast_word(x + t.value * x_stride + 4 * i);
        sums[t.value][0] = add_dots(sums[t.value][0], block0, word);
        sums[t.value][1] = add_dots(sums[t.value][1], block1, word);
      });
    }
  }
  unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
    products[t.value][0] = sums[t.value][0];
    products[t.value][1] = sums[t.value][1];
  });
}

#else

// How many sums of two products fit 16 bits.
constexpr int pair_sums(int largest_code) { return 32767 / (2 * 127 * largest_code); }

// Of the codes that Codes<kBits> makes.
template <int kBits>
inline constexpr int kPairSums = pair_sums(((1 << kBits) - 1) * Codes<kBits>::kUnit);

// Tiles take the unit out of their codes once, so that more sums fit: the power of two below that.
constexpr int tile_sums(int largest_code) {
  int sums = 1;
  while (2 * sums <= pair_sums(largest_code)) sums *= 2;
  return sums;
}
template <int kBits>
inline constexpr int kTileSums = tile_sums(kBits == 8 ? 15 : (1 << kBits) - 1);
template <int kBits>
inline constexpr TileForm kTileForm = kBits == 8              ? TileForm::kHalves
                                      : kTileSums<kBits> <= 4 ? TileForm::kPairs
                                                              : TileForm::kRows;
template <int kBits>
inline constexpr int kTileUnit = 1;
template <int kBits>
inline __m256i tile_codes(__m256i codes) {
  static_assert(Codes<kBits>::kUnit == 1 || Codes<kBits>::kUnit == 4);
  return Codes<kBits>::kUnit == 1 ? codes : _mm256_srli_epi16(codes, 2);
}

// Pairs of 16-bit sums added in 32 bits, times a factor.
inline vi widen_sums(__m256i sums, int factor) {
  return (vi)_mm256_madd_epi16(sums, _mm256_set1_epi16(static_cast<int16_t>(factor)));
}

template <int kBits, int kRegisters>
inline vi dot(const __m256i* codes, const int8_t* x) {
  if constexpr (kBits == 8) {
    static_assert(kRegisters <= pair_sums(15));
    __m256i low = _mm256_setzero_si256(), high = low;
    unrolled<kRegisters>([&](auto i) __attribute__((always_inline)) {
      const __m256i v = load_bytes(x + 32 * i.value);
      low = _mm256_add_epi16(low, _mm256_maddubs_epi16(low_half_bytes(codes[i.value]), v));
      high = _mm256_add_epi16(high, _mm256_maddubs_epi16(high_half_bytes(codes[i.value]), v));
    });
    return widen_sums(low, 1) + widen_sums(high, 16);
  } else if constexpr (kRegisters > kPairSums<kBits>) {
    constexpr int kHalf = kRegisters / 2;
    return dot<kBits, kHalf>(codes, x) + dot<kBits, kHalf>(codes + kHalf, x + 32 * kHalf);
  } else {
    __m256i sum = _mm256_maddubs_epi16(codes[0], load_bytes(x));
    unrolled<kRegisters, 1>([&](auto i) __attribute__((always_inline)) {
      sum =
          _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[i.value], load_bytes(x + 32 * i.value)));
    });
    return widen_sums(sum, 1);
  }
}

// Two words at a time through 16 bits, so that only 32-bit sums stay in registers.
template <int kTokens>
[[gnu::always_inline]] inline void multiply_pairs(const uint8_t (*codes)[2][32], const int8_t* x,
                                                  int64_t x_stride, int64_t words,
                                                  GroupProducts<kTokens, 2>& products) {
  vi sums[kTokens][2] = {};
  for (int64_t i = 0; i < words; i += 2) {
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      const int8_t* at = x + t.value * x_stride + 4 * i;
      const __m256i first = broadcast_word(at), second = broadcast_word(at + 4);
      unrolled<2>([&](auto b) __attribute__((always_inline)) {
        sums[t.value][b.value] += widen_sums(
            _mm256_add_epi16(_mm256_maddubs_epi16(load_bytes(codes[i][b.value]), first),
                             _mm256_maddubs_epi16(load_bytes(codes[i + 1][b.value]), second)),
            1);
      });
    });
  }
  unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
    products[t.value][0] = sums[t.value][0];
    products[t.value][1] = sums[t.value][1];
  });
}

template <TileForm kForm, int kTokens, int kBlocks = kBlocksOf<kForm> >
[[gnu::always_inline]] inline void multiply_group(const uint8_t (*codes)[2][32], const int8_t* x,
                                                  int64_t x_stride, const GroupWalk& walk,
                                                  GroupProducts<kTokens, kBlocks>& products) {
  if constexpr (kForm == TileForm::kPairs)
    return multiply_pairs<kTokens>(codes, x, x_stride, walk.group_words, products);
  unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
    unrolled<kBlocks>([&](auto b)
                          __attribute__((always_inline)) { products[t.value][b.value] = vi{}; });
  });
  for (int chunk = 0; chunk < walk.chunks; ++chunk) {
    __m256i sums[kTokens][2] = {};
    for (int run = 0; run < walk.runs; ++run) {
      const int64_t first = static_cast<int64_t>(chunk + run) * walk.stride;
      for (int64_t i = first; i < first + walk.words; ++i) {
        const __m256i block0 = load_bytes(codes[i][0]), block1 = load_bytes(codes[i][1]);
        unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
          const __m256i word = broadcast_word(x + t.value * x_stride + 4 * i);
          __m256i(&sum)[2] = sums[t.value];
          sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(block0, word));
          sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(block1, word));
        });
      }
    }
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      vi wide[kBlocks];
      if constexpr (kForm == TileForm::kHalves) {
        wide[0] = widen_sums(sums[t.value][0], 1) + widen_sums(sums[t.value][1], 16);
      } else {
        wide[0] = widen_sums(sums[t.value][0], 1);
        wide[1] = widen_sums(sums[t.value][1], 1);
      }
      unrolled<kBlocks>([&](auto b) __attribute__((always_inline)) {
        products[t.value][b.value] += wide[b.value];
      });
    });
  }
}

#endif
