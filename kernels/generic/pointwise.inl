// Elementwise layers: residual add and SwiGLU.

void add(float* x, const float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) + load(y + i));
  for (; i < n; ++i) x[i] += y[i];
}

// gate / (1 + e^-gate) * up
inline vf silu_mul_lanes(vf gate, vf up) { return gate / (exp(-gate) + 1.0f) * up; }

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, silu_mul_lanes(load(gate + i), load(up + i)));
  if (i < n) {
    store_partial(
        out + i, silu_mul_lanes(load_partial(gate + i, n - i), load_partial(up + i, n - i)), n - i);
  }
}
