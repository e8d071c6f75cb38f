// The shape of the tile registers in palette 1: up to 16 rows of up to 64 bytes each. One pattern
// for both vocabularies of tile operations, the instructions (tiles.inl) and the plain model of
// them that the tests run where there is no hardware.

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTiles = 8;

// As LDTILECFG reads it. Every tile of a region has the rows and row bytes stated here.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr TileConfig() {
    for (int i = 0; i < kTiles; ++i) set(i, kTileRows, kTileRowBytes);
  }
  constexpr void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);
