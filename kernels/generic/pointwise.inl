// Elementwise layers: residual add, multipliers, soft caps, limits, SwiGLU and its clamped form,
// GeGLU, plain GELU and squared ReLU.

void add(float* x, const float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) + load(y + i));
  for (; i < n; ++i) x[i] += y[i];
}

void scale(float* x, float factor, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * factor);
  for (; i < n; ++i) x[i] *= factor;
}

// tanh is that of capped attention scores: its absolute error of 1e-7 is one of cap * 1e-7 here.
void soft_cap(float* x, float cap, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, tanh(load(x + i) / cap) * cap);
  if (i < n) store_partial(x + i, tanh(load_partial(x + i, n - i) / cap) * cap, n - i);
}

void clamp(float* x, float limit, int64_t n) {
  const auto within = [=](vf v) { return max(min(v, splat(limit)), splat(-limit)); };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, within(load(x + i)));
  if (i < n) store_partial(x + i, within(load_partial(x + i, n - i)), n - i);
}

// gate / (1 + e^-gate) * up
inline vf silu_mul_lanes(vf gate, vf up) { return gate / (exp(-gate) + 1.0f) * up; }

// out[i] = f(gate[i], up[i]) a register at a time; a partial one is made with zeros behind it.
template <typename F>
void gated(const float* gate, const float* up, int64_t n, float* out, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(gate + i), load(up + i)));
  if (i < n) {
    store_partial(out + i, f(load_partial(gate + i, n - i), load_partial(up + i, n - i)), n - i);
  }
}

// out[i] = f(x[i]), likewise.
template <typename F>
void mapped(const float* x, int64_t n, float* out, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(x + i)));
  if (i < n) store_partial(out + i, f(load_partial(x + i, n - i)), n - i);
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  gated(gate, up, n, out, [](vf g, vf u) { return silu_mul_lanes(g, u); });
}

void clamped_swiglu(const float* gate, const float* up, float limit, float slope, int64_t n,
                    float* out) {
  gated(gate, up, n, out, [=](vf g, vf u) {
    g = min(g, splat(limit));
    u = max(min(u, splat(limit)), splat(-limit));
    return g / (exp(g * -slope) + 1.0f) * (u + 1.0f);
  });
}

// erf(|x|) after Abramowitz and Stegun, 7.1.26: absolute error below 2e-7.
inline vf erf_magnitude(vf x) {
  const vf t = 1.0f / (x * 0.3275911f + 1.0f);
  vf p = splat(1.061405429f);
  constexpr float kNext[] = {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  for (const float c : kNext) p = p * t + c;
  return 1.0f - p * t * exp(-(x * x));
}

// The tanh form is x times a logistic function: (1 + tanh(u)) / 2 = 1 / (1 + e^-2u).
inline vf gelu_tanh_lanes(vf x) {
  constexpr float kTwice = 1.5957691216f;  // 2 sqrt(2 / pi)
  const vf inner = (x + x * x * x * 0.044715f) * kTwice;
  return x / (exp(-inner) + 1.0f);
}

inline vf gelu_erf_lanes(vf x) {
  constexpr float kRootHalf = 0.70710678f;
  const vf step = erf_magnitude(abs(x) * kRootHalf);
  return x * 0.5f * (select(x < 0.0f, -step, step) + 1.0f);
}

void gelu_mul(const float* gate, const float* up, int64_t n, bool tanh_form, float* out) {
  const auto both = [&](auto gelu) {
    if (up == nullptr) {
      mapped(gate, n, out, gelu);
    } else {
      gated(gate, up, n, out, [&](vf g, vf u) { return gelu(g) * u; });
    }
  };
  if (tanh_form) {
    both([](vf x) { return gelu_tanh_lanes(x); });
  } else {
    both([](vf x) { return gelu_erf_lanes(x); });
  }
}

void relu_squared(const float* x, int64_t n, float* out) {
  mapped(x, n, out, [](vf v) {
    const vf above = max(v, splat(0.0f));
    return above * above;
  });
}
