// The tile registers and their instructions in plain code: what Intel documents for palette 1, so
// that the kernels of the amx level can be tested on any machine with AVX-512.
//
// Stricter than a processor where that catches mistakes: an operation without a configuration, on
// shapes that do not fit, or a second configuration without a release ends the program.

struct Tile {
  alignas(64) uint8_t row[kTileRows][kTileRowBytes];
};
struct TileState {
  bool configured = false;
  TileConfig config;
  Tile tile[kTiles];
};
inline thread_local TileState tile_state;

inline void tile_require(bool condition) {
  if (!condition) __builtin_trap();
}

inline void model_configure(const TileConfig& config) {
  TileState& state = tile_state;
  tile_require(!state.configured && config.palette == 1 && config.start_row == 0);
  for (const uint8_t byte : config.reserved) tile_require(byte == 0);
  for (int i = 0; i < 16; ++i) {
    tile_require(config.rows[i] <= kTileRows && config.row_bytes[i] <= kTileRowBytes);
    // Both or neither, and nothing behind the eighth tile.
    tile_require((config.rows[i] == 0) == (config.row_bytes[i] == 0));
    tile_require(i < kTiles || config.rows[i] == 0);
  }
  state.config = config;
  __builtin_memset(state.tile, 0, sizeof state.tile);
  state.configured = true;
}

inline void model_release() {
  tile_require(tile_state.configured);
  tile_state.configured = false;
  // What is read from a tile without a new configuration shall be no number by chance.
  __builtin_memset(tile_state.tile, 0xff, sizeof tile_state.tile);
}

inline int rows_of(int tile) {
  tile_require(tile_state.configured && tile_state.config.rows[tile] != 0);
  return tile_state.config.rows[tile];
}
inline int words_of(int tile) {
  tile_require(tile_state.configured && tile_state.config.row_bytes[tile] % 4 == 0);
  return tile_state.config.row_bytes[tile] / 4;
}

inline void model_zero(int tile) {
  rows_of(tile);
  __builtin_memset(&tile_state.tile[tile], 0, sizeof(Tile));
}

// Reads the configured bytes of the configured rows, not one more; the rest of the tile is zero.
inline void model_load(int tile, const void* bytes, int64_t stride) {
  const int rows = rows_of(tile);
  const int row_bytes = 4 * words_of(tile);
  Tile loaded = {};
  for (int m = 0; m < rows; ++m) {
    __builtin_memcpy(loaded.row[m], static_cast<const uint8_t*>(bytes) + m * stride,
                     static_cast<std::size_t>(row_bytes));
  }
  tile_state.tile[tile] = loaded;
}

inline void model_store(int tile, void* bytes, int64_t stride) {
  const int rows = rows_of(tile);
  const int row_bytes = 4 * words_of(tile);
  for (int m = 0; m < rows; ++m) {
    __builtin_memcpy(static_cast<uint8_t*>(bytes) + m * stride, tile_state.tile[tile].row[m],
                     static_cast<std::size_t>(row_bytes));
  }
}

// The shapes of C [m][n] += A [m][k] B [k][n], in words of 4 bytes.
struct ProductShape {
  int m, k, n;
};
inline ProductShape product_shape(int sum, int a, int b) {
  tile_require(sum != a && sum != b && a != b);
  const ProductShape shape{rows_of(sum), words_of(a), words_of(sum)};
  tile_require(rows_of(a) == shape.m && rows_of(b) == shape.k && words_of(b) == shape.n);
  return shape;
}

inline uint32_t word_at(const Tile& tile, int row, int word) {
  uint32_t value;
  __builtin_memcpy(&value, tile.row[row] + 4 * word, sizeof value);
  return value;
}

inline void model_dpbusd(int to, int from_a, int from_b) {
  const ProductShape shape = product_shape(to, from_a, from_b);
  const Tile &sum = tile_state.tile[to], &a = tile_state.tile[from_a], &b = tile_state.tile[from_b];
  Tile result = {};
  for (int m = 0; m < shape.m; ++m) {
    uint32_t row[kTileRows];  // modulo 2^32, as the instruction
    for (int n = 0; n < shape.n; ++n) row[n] = word_at(sum, m, n);
    for (int k = 0; k < shape.k; ++k) {
      for (int n = 0; n < shape.n; ++n) {
        for (int i = 0; i < 4; ++i) {
          const auto y = static_cast<int8_t>(b.row[k][4 * n + i]);
          row[n] += static_cast<uint32_t>(static_cast<int>(a.row[m][4 * k + i]) * y);
        }
      }
    }
    __builtin_memcpy(result.row[m], row, 4 * static_cast<std::size_t>(shape.n));
  }
  tile_state.tile[to] = result;
}

inline uint32_t bits_of(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}
// A denormal is zero with its sign.
inline float flushed(float v) {
  const uint32_t bits = bits_of(v);
  return (bits & 0x7f800000u) == 0 ? float_of(bits & 0x80000000u) : v;
}
inline float flushed_add(float a, float b) { return flushed(flushed(a) + flushed(b)); }

inline void model_dpbf16ps(int to, int from_a, int from_b) {
  const ProductShape shape = product_shape(to, from_a, from_b);
  const Tile &sum = tile_state.tile[to], &a = tile_state.tile[from_a], &b = tile_state.tile[from_b];
  Tile result = {};
  for (int m = 0; m < shape.m; ++m) {
    float even[kTileRows] = {}, odd[kTileRows] = {}, row[kTileRows];
    for (int k = 0; k < shape.k; ++k) {
      const uint32_t pair = word_at(a, m, k);
      const float a0 = flushed(float_of(pair << 16)), a1 = flushed(float_of(pair & 0xffff0000u));
      for (int n = 0; n < shape.n; ++n) {
        const uint32_t other = word_at(b, k, n);
        even[n] = flushed(__builtin_fmaf(a0, flushed(float_of(other << 16)), even[n]));
        odd[n] = flushed(__builtin_fmaf(a1, flushed(float_of(other & 0xffff0000u)), odd[n]));
      }
    }
    for (int n = 0; n < shape.n; ++n)
      row[n] = flushed_add(float_of(word_at(sum, m, n)), flushed_add(even[n], odd[n]));
    __builtin_memcpy(result.row[m], row, 4 * static_cast<std::size_t>(shape.n));
  }
  tile_state.tile[to] = result;
}
