// A pass that reads every byte: byte i counts 256^(i mod 8), modulo 2^64.

uint64_t sum_words(const uint8_t* bytes, int64_t n) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<uint64_t>(bytes[i]) << (8 * (i % 8));
  return sum;
}

int64_t multiply_adds(int64_t rounds, float* out) {
  float sum = 0.0f;
  for (int64_t i = 0; i < rounds; ++i) sum = sum * 0.5f + 1.0f;
  *out = sum;
  return rounds;
}
