// The vocabulary of tile operations, as instructions. Kernels use nothing else of AMX, so that the
// tests can run them over a model in plain code.
//
// Written as assembly because the registers are numbers that a template computes, which GCC's
// intrinsics cannot take, and because a load must say that it reads memory: without the clobber a
// compiler may still hold back the stores that fill an operand.

// Configures the tile registers of this thread, all zero.
inline void tile_configure(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
// Gives them back, so that a thread that waits carries no 8 KiB of state.
inline void tile_release() { __asm__ volatile("tilerelease" : : : "memory"); }

template <int kTile>
[[gnu::always_inline]] inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// The rows of the tile from `bytes` on, `stride` bytes apart.
template <int kTile>
[[gnu::always_inline]] inline void tile_load(const void* bytes, int64_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0"
                   :
                   : "i"(kTile), "r"(bytes), "r"(stride)
                   : "memory");
}
template <int kTile>
[[gnu::always_inline]] inline void tile_store(void* bytes, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)"
                   :
                   : "i"(kTile), "r"(bytes), "r"(stride)
                   : "memory");
}
// sum[m][n] += sum_k a[m][k] * b[k/4][n][k%4]: unsigned bytes times signed ones, int32.
template <int kSum, int kA, int kB>
[[gnu::always_inline]] inline void tile_dpbusd() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
// sum[m][n] += sum_k a[m][k] * b[k/2][n][k%2]: bf16 times bf16, f32. Even and odd k are two chains
// of fused multiply-adds that start at zero, joined and then added to the sum; denormals are zero
// on the way in and out, roundings to nearest even.
template <int kSum, int kA, int kB>
[[gnu::always_inline]] inline void tile_dpbf16ps() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
