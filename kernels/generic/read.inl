// A pass over memory that only reads: the ceiling that the speed of decoding is compared with.
//
// Layout: bytes at any address. Operations: one load and one add per register, four sums side by
// side so that no add waits for the one before. Limit: the rate at which one core draws from
// memory; registers as wide as the level's keep more lines in flight, and 16-byte loads alone stay
// a fifth below it.

uint64_t sum_words(const uint8_t* bytes, int64_t n) {
  typedef uint64_t vw __attribute__((vector_size(JANG_VEC_BYTES)));
  constexpr int kSums = 4;
  constexpr int64_t kStep = kSums * JANG_VEC_BYTES;
  vw sums[kSums] = {};
  int64_t at = 0;
  for (; at + kStep <= n; at += kStep) {
    unrolled<kSums>([&](auto index) {
      constexpr int i = decltype(index)::value;
      vw words;
      __builtin_memcpy(&words, bytes + at + i * JANG_VEC_BYTES, sizeof words);
      sums[i] += words;
    });
  }
  uint64_t lanes[JANG_VEC_BYTES / 8];
  const vw joined = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  __builtin_memcpy(lanes, &joined, sizeof lanes);
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  for (; at < n; at += 8) {
    uint64_t word = 0;
    __builtin_memcpy(&word, bytes + at, static_cast<std::size_t>(n - at < 8 ? n - at : 8));
    sum += word;
  }
  return sum;
}

// Twelve chains: two instructions a cycle, each up to six cycles long. The factor comes from
// memory, so that nothing is known beforehand.
int64_t multiply_adds(int64_t rounds, float* out) {
  constexpr int kChains = 12;
  volatile float half = 0.5f;
  const vf factor = splat(half);
  const vf one = factor + factor;
  vf chain[kChains];
  unrolled<kChains>([&](auto c) __attribute__((always_inline)) {
    chain[c.value] = splat(static_cast<float>(c.value));
  });
  for (int64_t i = 0; i < rounds; ++i) {
    unrolled<kChains>([&](auto c) __attribute__((always_inline)) {
      chain[c.value] = fma(chain[c.value], factor, one);
    });
  }
  vf sum = {};
  unrolled<kChains>([&](auto c) __attribute__((always_inline)) { sum += chain[c.value]; });
  *out = sum_lanes(sum);
  return rounds * kChains * kLanes;
}
