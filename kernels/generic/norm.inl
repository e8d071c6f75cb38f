// RMSNorm, also with the residual add before it, and LayerNorm: one pass for the sums in four
// registers of lanes, one for the product.

// Sum of square(register) over a row: square(i) gives the squares of lanes i .. i + kLanes, zero
// behind the row's end.
template <typename Square>
float mean_of(int64_t n, Square square) {
  vf sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sum[j] = square(i + j * kLanes, kLanes, sum[j]);
  }
  for (; i < n; i += kLanes) sum[0] = square(i, n - i < kLanes ? n - i : kLanes, sum[0]);
  return sum_tree((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
}

inline vf load_some(const float* p, int64_t lanes) {
  return lanes == kLanes ? load(p) : load_partial(p, lanes);
}

inline float mean_square(const float* x, int64_t n) {
  return mean_of(n, [x](int64_t i, int64_t lanes, vf sum) {
    const vf v = load_some(x + i, lanes);
    return fma(v, v, sum);
  });
}

inline void scale_row(const float* x, float scale, const float* weight, float weight_offset,
                      int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vf normed = load(x + i) * scale;
    store(out + i, weight == nullptr ? normed : normed * (load(weight + i) + weight_offset));
  }
  for (; i < n; ++i) {
    const float normed = x[i] * scale;
    out[i] = weight == nullptr ? normed : normed * (weight[i] + weight_offset);
  }
}

void rms_norm(const float* x, int64_t x_stride, const float* weight, float weight_offset, float eps,
              int64_t tokens, int64_t n, float* out, int64_t out_stride) {
  for (int64_t t = 0; t < tokens; ++t, x += x_stride, out += out_stride) {
    const float scale = 1.0f / __builtin_sqrtf(mean_square(x, n) + eps);
    scale_row(x, scale, weight, weight_offset, n, out);
  }
}

void add_rms_norm(float* x, const float* y, const float* weight, float weight_offset, float eps,
                  int64_t tokens, int64_t n, float* out) {
  for (int64_t t = 0; t < tokens; ++t, x += n, y += n, out += n) {
    const float mean = mean_of(n, [x, y](int64_t i, int64_t lanes, vf sum) {
      const vf v = load_some(x + i, lanes) + load_some(y + i, lanes);
      if (lanes == kLanes) {
        store(x + i, v);
      } else {
        store_partial(x + i, v, lanes);
      }
      return fma(v, v, sum);
    });
    scale_row(x, 1.0f / __builtin_sqrtf(mean + eps), weight, weight_offset, n, out);
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t tokens,
                int64_t n, float* out) {
  for (int64_t t = 0; t < tokens; ++t, x += n, out += n) {
    const float mean =
        mean_of(n, [x](int64_t i, int64_t lanes, vf sum) { return sum + load_some(x + i, lanes); });
    const float variance = mean_of(n, [x, mean](int64_t i, int64_t lanes, vf sum) {
      vf v = load_some(x + i, lanes) - mean;
      if (lanes < kLanes) {
        float kept[kLanes];
        store(kept, v);
        v = load_partial(kept, lanes);  // lanes behind the row are zero again
      }
      return fma(v, v, sum);
    });
    const float scale = 1.0f / __builtin_sqrtf(variance + eps);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const vf normed = (load(x + i) - mean) * scale * load(weight + i);
      store(out + i, bias == nullptr ? normed : normed + load(bias + i));
    }
    for (; i < n; ++i) {
      const float normed = (x[i] - mean) * scale * weight[i];
      out[i] = bias == nullptr ? normed : normed + bias[i];
    }
  }
}
