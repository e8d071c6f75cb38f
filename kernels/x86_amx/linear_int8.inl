// Linear layers on int8 activations in tiles: exact dot products of a group by TDPBUSD, scales and
// biases in f32.
//
//   weights   [64 columns][16 rows][64 bytes]      16 rows x 1024 columns (g = 32: 512)
//   tokens    [tile][64 columns][16 words of K][16 tokens][4 bytes]      at most 128 KiB
//   factors   [tile][group][d, mid u, X][16 tokens] f32                   at most 48 KiB
//
// A strip of 16 rows is unpacked in 3 operations per 64 weights, once per 128 tokens. Then for 16
// rows x 16 tokens and a group, whose 16 sums stay in registers:
//
//   products     g / 64 tile products (g = 32: one of half the depth), 16 cycles each, and 2 loads
//   the group    1 tile store, then 16 times 1 load with conversion and 3 multiply-adds with s, d
//                and z: 64 operations on two ports, 32 cycles
//
// so at g = 64 the scaling is the limit and not the product. Two result tiles take turns: one is
// multiplied and stored while the other is scaled. A load that lies a multiple of 4 KiB from a
// store on its way waits for it, so the slots of these tiles, scales and biases share one 4 KiB.
//
// Groups of 32 use tile rows of 32 bytes, half of a product's depth. Per 16 rows x 16 tokens x 32
// columns that is still 16 cycles and 32 for the scaling, against 64 and 32 on registers.
//
// Order of sums: groups one after another, for every number of tokens.

constexpr int64_t kOperandColumns = 8192;  // of all token tiles of a block
constexpr int64_t kFactorGroups = kOperandColumns / 32;

// What 16 tokens multiply one group's dot products, scale and bias with.
struct GroupFactors {
  float scale[16];   // d
  float middle[16];  // mid * u
  float sum[16];     // X
};

// Columns unpacked at a time: up to 16 groups.
constexpr int64_t kMostChunk = 1024;
constexpr int kChunkGroups = 16;
constexpr int64_t chunk_columns(int group) {
  return group * kChunkGroups < kMostChunk ? group * kChunkGroups : kMostChunk;
}

struct Int8Buffers {
  alignas(64) uint8_t weights[kMostChunk / kStep][kTileRows][kTileRowBytes];
  // 4 KiB without a gap: no two addresses of these three are a multiple of 4 KiB apart.
  alignas(64) float scales[kTileRows][kChunkGroups];
  alignas(64) float biases[kTileRows][kChunkGroups];
  alignas(64) int32_t dots[2][kTileRows][16];
  alignas(64) int8_t tokens[kOperandColumns * kTileRows];
  alignas(64) GroupFactors factors[kFactorGroups];
  alignas(64) float sums[kSumFloats];
};

// A step of codes as a tile row, in the order that StepCodes gives the activations: that of the
// columns, or (2 and 4 bits) the phases of 16 bytes behind one another, so that at 4 bits half a
// row has 32 neighbouring columns.
template <int kBits>
[[gnu::always_inline]] inline __m512i unpack_tile_row(const uint8_t* p, __mmask64 mask) {
  if constexpr (!kIsWide<kBits>) return unpack_step<kBits>(p, mask);
  if constexpr (kBits == 2) {
    const __m128i packed = _mm_maskz_loadu_epi8(static_cast<__mmask16>(_cvtmask64_u64(mask)), p);
    const __m512i phases = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    return phase_codes<2, 0>(_mm512_srlv_epi32(_mm512_broadcast_i32x4(packed), phases));
  } else {
    const __m512i packed = _mm512_maskz_loadu_epi8(mask, p);
    const __m512i twice =
        _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), packed);
    const __m512i phases = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    return phase_codes<4, 0>(_mm512_srlv_epi32(twice, phases));
  }
}

// Where the activations of the step at `column` lie, and those of its four quarters behind there.
template <int kBits>
struct StepCodes {
  static constexpr int64_t quarter(int i) {
    if (!kIsWide<kBits>) return 16 * i;
    return i / kPhases<kBits> * 16 + i % kPhases<kBits> * 64;
  }
  static constexpr int64_t begin(int64_t column) {
    return kIsWide<kBits> ? wide_position<kBits>(column) : column;
  }
};

// 16 rows from first_row on, `columns` columns from `begin` on. Where a strip takes whole rows, the
// next one lies right behind it and is asked for in the order of addresses, as in the vector tiles;
// `ahead` is where that stands, else null.
template <int kBits>
void unpack_strip(const AffineMatrix& w, int64_t first_row, int64_t row_end, int64_t begin,
                  int64_t columns, const uint8_t*& ahead, Int8Buffers& buffers) {
  constexpr int kStepBytes = 8 * kBits;
  const int64_t row_bytes = w.columns / 8 * kBits;
  const int64_t groups = columns / w.group;
  const uint8_t* rows[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    const int64_t row = row_in_range(first_row + r, row_end);
    rows[r] = w.codes + row * row_bytes + begin / 8 * kBits;
    const int64_t at = (row * w.columns + begin) / w.group;
    _mm512_store_ps(buffers.scales[r], load_metadata16(w.scales, w.metadata, at, groups));
    _mm512_store_ps(buffers.biases[r], load_metadata16(w.biases, w.metadata, at, groups));
  }
  for (int64_t c = 0; c < columns; c += kStep) {
    if (ahead != nullptr) {
      for (int i = 0; i < kTileRows * kStepBytes; i += 64) __builtin_prefetch(ahead + i);
      ahead += kTileRows * kStepBytes;
    }
    const __mmask64 mask = code_bytes_mask(at_most(columns - c, kStep), kBits);
    for (int r = 0; r < kTileRows; ++r) {
      _mm512_store_si512(buffers.weights[c / kStep][r],
                         unpack_tile_row<kBits>(rows[r] + c / 8 * kBits, mask));
    }
  }
}

// The column operand of the 16 tokens from `token` on, zeros behind the last one: codes in words of
// 4, and the factors of their groups.
template <int kBits, int kGroup>
void interleave_tile(const Int8Activations& x, int64_t token, int64_t tokens, int64_t begin,
                     int64_t columns, float middle, int8_t* out, GroupFactors* factors) {
  const uint8_t* rows[kTileRows];
  __m512i words[16];
  for (int64_t c = 0; c < columns; c += kStep) {
    for (int64_t t = 0; t < kTileRows; ++t)
      rows[t] = row_or_zeros(x.codes + StepCodes<kBits>::begin(begin + c), x.code_stride, token + t,
                             tokens);
    transpose_rows(rows, words, StepCodes<kBits>::quarter);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + kTileRows * c + 64 * i, words[i]);
  }
  // In blocks of 16 groups, which rows of factors are padded to.
  const __m512 mid = _mm512_set1_ps(middle);
  const int64_t first = begin / kGroup, last = first + columns / kGroup;
  for (int64_t block = first / kGroupBlock * kGroupBlock; block < last; block += kGroupBlock) {
    const auto turn = [&](const float* from, float(GroupFactors::*to)[16], bool scaled) {
      for (int64_t t = 0; t < kTileRows; ++t)
        rows[t] = row_or_zeros(from + block, 4 * x.group_stride, token + t, tokens);
      transpose_rows(rows, words);
      for (int64_t g = block > first ? block : first; g < last && g < block + kGroupBlock; ++g) {
        const __m512 v = _mm512_castsi512_ps(words[g - block]);
        _mm512_store_ps(factors[g - first].*to, scaled ? _mm512_mul_ps(mid, v) : v);
      }
    };
    turn(x.scales, &GroupFactors::scale, false);
    turn(x.residuals, &GroupFactors::middle, true);
    turn(x.sums, &GroupFactors::sum, false);
  }
}

// The dot products of group g of a chunk into slot kSlot, by the tiles kSlot, 4 + kSlot, 6 + kSlot.
template <int kGroup, int kSlot>
[[gnu::always_inline]] inline void multiply_group(Int8Buffers& buffers, const int8_t* tokens,
                                                  int64_t g) {
  constexpr int kSum = kSlot, kWeights = 4 + kSlot, kTokens = 6 + kSlot;
  tile_zero<kSum>();
  const auto* weights = reinterpret_cast<const uint8_t*>(buffers.weights) +
                        g * kGroup / kStep * (kTileRows * kStep) + g * kGroup % kStep;
  tokens += g * kGroup * kTileRows;
  unrolled<(kGroup + kStep - 1) / kStep>([&](auto i) __attribute__((always_inline)) {
    constexpr int kTileBytes = kTileRows * kTileRowBytes;
    tile_load<kWeights>(weights + i.value * kTileBytes, kTileRowBytes);
    tile_load<kTokens>(tokens + i.value * kTileBytes, kTileRowBytes);
    tile_dpbusd<kSum, kWeights, kTokens>();
  });
  tile_store<kSum>(buffers.dots[kSlot], kTileRowBytes);
}

// Adds the share of a chunk of columns to the sums of 16 rows x 16 tokens; `fresh` starts from zero
// instead.
template <int kGroup>
void multiply_chunk(Int8Buffers& buffers, int64_t groups, const int8_t* tokens,
                    const GroupFactors* factors, float* sums, bool fresh) {
  __m512 sum[kTileRows];
  unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
    sum[r.value] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(sums + 16 * r.value);
  });
  const auto scale_group = [&](auto slot, int64_t g) __attribute__((always_inline)) {
    const __m512 d = _mm512_load_ps(factors[g].scale);
    const __m512 middle = _mm512_load_ps(factors[g].middle);
    const __m512 group_sum = _mm512_load_ps(factors[g].sum);
    unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
      constexpr int kR = r.value;
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(buffers.dots[slot.value][kR]));
      const __m512 s = _mm512_set1_ps(buffers.scales[kR][g]);
      const __m512 z = _mm512_set1_ps(buffers.biases[kR][g]);
      sum[kR] = _mm512_fmadd_ps(_mm512_fmadd_ps(dot, d, middle), s, sum[kR]);
      sum[kR] = _mm512_fmadd_ps(z, group_sum, sum[kR]);
    });
  };
  multiply_group<kGroup, 0>(buffers, tokens, 0);
  int64_t g = 0;
  for (; g + 2 < groups; g += 2) {
    multiply_group<kGroup, 1>(buffers, tokens, g + 1);
    scale_group(Index<0>{}, g);
    multiply_group<kGroup, 0>(buffers, tokens, g + 2);
    scale_group(Index<1>{}, g + 1);
  }
  if (g + 1 < groups) multiply_group<kGroup, 1>(buffers, tokens, g + 1);
  scale_group(Index<0>{}, g);
  if (g + 1 < groups) scale_group(Index<1>{}, g + 1);
  unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
    _mm512_store_ps(sums + 16 * r.value, sum[r.value]);
  });
}

// The tile shapes: a group of 32 columns is half a tile row deep.
constexpr TileConfig int8_tiles(int group) {
  TileConfig config;
  for (int slot = 0; group < kStep && slot < 2; ++slot) {
    config.set(4 + slot, kTileRows, group);
    config.set(6 + slot, group / 4, kTileRowBytes);
  }
  return config;
}
template <int kGroup>
inline constexpr TileConfig kInt8Tiles = int8_tiles(kGroup);

template <int kBits, int kGroup>
void amx_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
              int64_t y_stride, int64_t row_begin, int64_t row_end) {
  Int8Buffers buffers;
  tile_configure(kInt8Tiles<kGroup>);
  const int64_t row_bytes = w.columns / 8 * kBits;
  int64_t tile_columns = 0;  // columns of the panel, whole steps
  const auto operand = [&](int64_t token, int64_t some, int64_t begin, int64_t width) {
    tile_columns = round_up(width, kStep);
    for (int64_t t = 0; t < some; t += kTileRows) {
      interleave_tile<kBits, kGroup>(x, token + t, token + some, begin, width, code_middle(kBits),
                                     buffers.tokens + t * tile_columns,
                                     buffers.factors + t / kTileRows * (width / kGroup));
    }
  };
  const auto strips = [&](int64_t first, int64_t last, int64_t some, int64_t begin, int64_t width) {
    float* sums = buffers.sums;
    for (int64_t row = first; row < last; row += kTileRows) {
      const uint8_t* ahead = width == w.columns ? w.codes + (row + kTileRows) * row_bytes : nullptr;
      for (int64_t c = 0; c < width; c += chunk_columns(kGroup)) {
        const int64_t columns = at_most(width - c, chunk_columns(kGroup));
        unpack_strip<kBits>(w, row, row_end, begin + c, columns, ahead, buffers);
        for (int64_t t = 0; t < some; t += kTileRows) {
          multiply_chunk<kGroup>(buffers, columns / kGroup,
                                 buffers.tokens + t * tile_columns + c * kTileRows,
                                 buffers.factors + t / kTileRows * (width / kGroup) + c / kGroup,
                                 sums + t / kTileRows * kTileFloats, begin + c == 0);
        }
      }
      sums += round_up(some, kTileRows) / kTileRows * kTileFloats;
    }
  };
  const auto finished = [&](int64_t first, int64_t last, int64_t token, int64_t some) {
    store_block(buffers.sums, first, last, some, y + token * y_stride, y_stride);
  };
  for_each_block(tokens, w.columns, kOperandColumns, kActivationBlock, row_begin, row_end, operand,
                 strips, finished);
  tile_release();
}

// Where tiles begin to pay, in ns for 64 weights on a core of 3.8 GHz at g = 64 (computed): tiles
// take 1.25 to unpack and 1.1 for up to 16 tokens. The row loop of avx512 takes 1.3 for one token
// and about 0.5 for each further one, 2.8 at 4, and its order suits memory better; the vector tiles
// take 4 at 5 tokens and 7 at 16.
void amx_matmul_int8(const AffineMatrix& w, const Int8Activations& x, int64_t tokens, float* y,
                     int64_t y_stride, int64_t row_begin, int64_t row_end) {
  constexpr int64_t kFewTokens = 4;
  // In the order of 2 bits a group of 32 columns is no half of a tile row.
  const bool no_tile_row = w.bits == 2 && w.group < kStep;
  if (tokens <= kFewTokens || no_tile_row)
    return x86_avx512_table()->affine_matmul_int8(w, x, tokens, y, y_stride, row_begin, row_end);
  with_format(w, [&](auto format) {
    amx_int8<format.kBits, format.kGroup>(w, x, tokens, y, y_stride, row_begin, row_end);
  });
}
