// Rotary position embedding of one token's heads, from tables of cosines and sines.

void rope_halves(float* x, int half, const float* cos, const float* sin) {
  float* y = x + half;
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const vf a = load(x + i), b = load(y + i), c = load(cos + i), s = load(sin + i);
    store(x + i, a * c - b * s);
    store(y + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = y[i];
    x[i] = a * cos[i] - b * sin[i];
    y[i] = b * cos[i] + a * sin[i];
  }
}

// Each of half a register's floats twice, side by side.
inline vf twice(const float* p) {
  typedef uint32_t Narrow __attribute__((vector_size(JANG_VEC_BYTES / 2)));
  typedef uint64_t Pairs __attribute__((vector_size(JANG_VEC_BYTES)));
  Narrow bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const Pairs wide = __builtin_convertvector(bits, Pairs);
  return (vf)(wide | wide << 32);
}

// Neighbours changed places: (b, a) for each (a, b).
inline vf swap_pairs(vf v) {
  typedef uint64_t Pairs __attribute__((vector_size(JANG_VEC_BYTES)));
  return (vf)((Pairs)v >> 32 | (Pairs)v << 32);
}

// (a, b) -> (a c - b s, b c + a s) without taking pairs apart: the sine of the first has its sign
// turned.
void rope_pairs(float* x, int half, const float* cos, const float* sin) {
  typedef uint64_t Pairs __attribute__((vector_size(JANG_VEC_BYTES)));
  constexpr int kPairs = kLanes / 2;
  const Pairs first_sign = Pairs{} + 0x80000000u;
  int i = 0;
  for (; i + kPairs <= half; i += kPairs) {
    const vf v = load(x + 2 * i);
    const vf s = (vf)((Pairs)twice(sin + i) ^ first_sign);
    store(x + 2 * i, v * twice(cos + i) + swap_pairs(v) * s);
  }
  for (; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

void rope(float* x, int64_t head_stride, int heads, int half, bool interleaved, const float* cos,
          const float* sin) {
  for (int h = 0; h < heads; ++h, x += head_stride) {
    if (interleaved) {
      rope_pairs(x, half, cos, sin);
    } else {
      rope_halves(x, half, cos, sin);
    }
  }
}

// Head by head, so that the second step finds the first one's result in registers' reach.
void norm_rope(float* x, int64_t head_stride, int heads, int dim, const float* weight,
               float weight_offset, float eps, int half, bool interleaved, const float* cos,
               const float* sin) {
  for (int h = 0; h < heads; ++h, x += head_stride) {
    rms_norm(x, head_stride, weight, weight_offset, eps, 1, dim, x, head_stride);
    rope(x, head_stride, 1, half, interleaved, cos, sin);
  }
}
