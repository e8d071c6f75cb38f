// The vocabulary of tile operations over the model: what the amx kernels are compiled against here
// in place of the instructions.

inline void tile_configure(const TileConfig& config) { model_configure(config); }
inline void tile_release() { model_release(); }

template <int kTile>
void tile_zero() {
  model_zero(kTile);
}
template <int kTile>
void tile_load(const void* bytes, int64_t stride) {
  model_load(kTile, bytes, stride);
}
template <int kTile>
void tile_store(void* bytes, int64_t stride) {
  model_store(kTile, bytes, stride);
}
template <int kSum, int kA, int kB>
void tile_dpbusd() {
  model_dpbusd(kSum, kA, kB);
}
template <int kSum, int kA, int kB>
void tile_dpbf16ps() {
  model_dpbf16ps(kSum, kA, kB);
}
