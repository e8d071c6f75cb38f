// Rows of floats into and out of the KV cache, and the rotation that spreads outliers before q4.
//
//   operations per element: f16, bf16 a conversion; q8 2 for the maximum, 3 to round; q4 about as
//   many and the packing of nibbles; the rotation log2(n) additions. A token's rows are a few KiB
//   in L1: the bound is arithmetic, and small beside the projections that made them.

// Lanes of `x` from i on, zeros from dim on.
inline vf load_padded(const float* x, int64_t i, int dim) {
  return i + kLanes <= dim ? load(x + i) : load_partial(x + i, i < dim ? dim - i : 0);
}

template <FloatType kType>
void store_floats(const float* x, int dim, uint8_t* row, int64_t padded) {
  for (int64_t i = 0; i < padded; i += kLanes) {
    vf v = load_padded(x, i, dim);
    if constexpr (kType == FloatType::kF16) v = max(min(v, splat(65504.0f)), splat(-65504.0f));
    store_as<kType>(row + i * kBytesOf<kType>, v);
  }
}

inline void store_q8(const float* x, int dim, uint8_t* row, int64_t padded, uint8_t* scale_out) {
  vi top{};
  for (int64_t i = 0; i < dim; i += kLanes) top = larger_magnitude(top, load_padded(x, i, dim));
  const Int8Scale rule(largest_lane(top));
  __builtin_memcpy(scale_out, &rule.scale, sizeof rule.scale);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const vf v = rule.rounds ? load_padded(x, i, dim) : vf{};
    store_int8(reinterpret_cast<int8_t*>(row + i), v * splat(rule.inverse));
  }
}

inline uint32_t bf16_bits(float x) {
  uint8_t bytes[2];
  store_partial_as<FloatType::kBF16>(bytes, splat(x), 1);
  return static_cast<uint32_t>(bytes[0] | bytes[1] << 8);
}

// One group of `count` channels; codes behind them are as of the first.
inline void store_q4_group(const float* x, int count, uint8_t* bytes, uint8_t* word_out) {
  float values[kKvGroup];
  for (int i = 0; i < kKvGroup; ++i) values[i] = x[i < count ? i : 0];
  vf low = load(values), high = low;
  vi size = (vi)abs(low);
  for (int i = kLanes; i < kKvGroup; i += kLanes) {
    const vf v = load(values + i);
    low = min(low, v);
    high = max(high, v);
    size = (vi)abs(v) > size ? (vi)abs(v) : size;
  }
  float least = low[0], most = high[0];
  bool finite = true;
  for (int i = 0; i < kLanes; ++i) {
    least = low[i] < least ? low[i] : least;
    most = high[i] > most ? high[i] : most;
    finite = finite && size[i] < 0x7f800000;
  }
  // Adding zero makes -0 the same as 0, whichever of them the minimum found.
  const uint32_t bias_bits = bf16_bits(least + 0.0f);
  const float bias = bits_float(bias_bits << 16);
  const uint32_t scale_bits = bf16_bits((most - bias) / 15.0f);
  const float scale = bits_float(scale_bits << 16);
  const float size_of_scale = scale < 0.0f ? -scale : scale;
  finite = finite && size_of_scale < __builtin_inff();  // the range overflows, too
  const uint32_t word = finite ? scale_bits << 16 | bias_bits : 0x7fc00000u;
  int32_t codes[kKvGroup] = {};
  if (finite && size_of_scale >= kSmallestScaledMax) {
    const float inverse = 1.0f / scale;
    for (int i = 0; i < kKvGroup; i += kLanes) {
      const vf code = rint_even((load(values + i) - bias) * inverse);
      const vi integer = to_int(min(max(code, vf{}), splat(15.0f)));
      __builtin_memcpy(codes + i, &integer, sizeof integer);
    }
  }
  __builtin_memcpy(word_out, &word, sizeof word);
  for (int i = 0; i < kKvGroup / 2; ++i)
    bytes[i] = static_cast<uint8_t>(codes[i] | codes[i + kKvGroup / 2] << 4);
}

void kv_store(const float* rows, int64_t row_stride, int64_t count, int dim, KvType type,
              uint8_t* const* blocks, int64_t position) {
  const int64_t padded = kv_padded(type, dim);
  const int64_t row_bytes = kv_row_bytes(type, dim);
  for (int64_t i = 0; i < count; ++i) {
    const float* x = rows + i * row_stride;
    const int64_t at = (position + i) % kKvBlock;
    uint8_t* block = blocks[(position + i) / kKvBlock];
    uint8_t* row = block + at * row_bytes;
    uint8_t* words = block + kKvBlock * row_bytes;
    switch (type) {
      case KvType::kF32:
        store_floats<FloatType::kF32>(x, dim, row, padded);
        break;
      case KvType::kF16:
        store_floats<FloatType::kF16>(x, dim, row, padded);
        break;
      case KvType::kBF16:
        store_floats<FloatType::kBF16>(x, dim, row, padded);
        break;
      case KvType::kQ8:
        store_q8(x, dim, row, padded, words + 4 * at);
        break;
      case KvType::kQ4:
        for (int64_t g = 0; g * kKvGroup < dim; ++g) {
          const int64_t left = dim - g * kKvGroup;
          store_q4_group(x + g * kKvGroup, static_cast<int>(left < kKvGroup ? left : kKvGroup),
                         row + g * (kKvGroup / 2), words + (at * (padded / kKvGroup) + g) * 4);
        }
        break;
    }
  }
}

template <typename Rows>
void load_row(const Rows& rows, int64_t at, int dim, float* out) {
  float scale = 1.0f;
  if (rows.scales() != nullptr) __builtin_memcpy(&scale, rows.scales() + 4 * at, sizeof scale);
  for (int first = 0; first < dim; first += Rows::kStep) {
    for_registers<Rows::kStep>(rows, at, first, [&](auto i, vf v) {
      const int d = first + i.value * kLanes;
      if (d + kLanes <= dim) {
        store(out + d, v * scale);
      } else if (d < dim) {
        store_partial(out + d, v * scale, dim - d);
      }
    });
  }
}

void kv_load(const uint8_t* const* blocks, int64_t position, int64_t count, int dim, KvType type,
             float* out, int64_t out_stride) {
  for (int64_t i = 0; i < count; ++i) {
    with_kv_rows(type, blocks[(position + i) / kKvBlock], dim, [&](const auto& rows) {
      load_row(rows, (position + i) % kKvBlock, dim, out + i * out_stride);
    });
  }
}

// Each lane beside the one that differs in bit kStep of its number.
template <int kStep>
inline vf swap_lanes(vf v) {
#if JANG_VEC_BYTES == 64
  if constexpr (kStep == 1)
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  if constexpr (kStep == 2)
    return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  if constexpr (kStep == 4)
    return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  if constexpr (kStep == 8)
    return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#elif JANG_VEC_BYTES == 32
  if constexpr (kStep == 1) return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  if constexpr (kStep == 2) return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  if constexpr (kStep == 4) return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
#else
  if constexpr (kStep == 1) return __builtin_shufflevector(v, v, 1, 0, 3, 2);
  if constexpr (kStep == 2) return __builtin_shufflevector(v, v, 2, 3, 0, 1);
#endif
}

// Stages of a power of two `size` >= kLanes within each register: lane i becomes i + (i ^ step), or
// (i ^ step) - i where the bit is set.
template <int kStep>
inline vf butterfly_lanes(vf v) {
  if constexpr (kStep < kLanes) {
    vi sign;
    for (int i = 0; i < kLanes; ++i) sign[i] = (i & kStep) != 0 ? INT32_MIN : 0;
    return butterfly_lanes<2 * kStep>(swap_lanes<kStep>(v) + (vf)((vi)v ^ sign));
  }
  return v;
}

inline void butterflies(float* x, int size, int first_step) {
  for (int step = first_step; step < size; step *= 2) {
    for (int i = 0; i < size; i += 2 * step) {
      int j = i;
      for (; j + kLanes <= i + step; j += kLanes) {
        const vf a = load(x + j), b = load(x + j + step);
        store(x + j, a + b);
        store(x + j + step, a - b);
      }
      for (; j < i + step; ++j) {
        const float a = x[j], b = x[j + step];
        x[j] = a + b;
        x[j + step] = a - b;
      }
    }
  }
}

void hadamard(float* x, int64_t stride, int64_t rows, int n) {
  const int size = n & -n;
  // 2^-k/2 for size 2^k.
  float factor = 1.0f;
  for (int s = size; s > 1; s /= 4) factor *= s == 2 ? 0.707106781f : 0.5f;
  for (int64_t r = 0; r < rows; ++r) {
    for (int first = 0; first < n; first += size) {
      float* block = x + r * stride + first;
      if (size < kLanes) {
        butterflies(block, size, 1);
        for (int i = 0; i < size; ++i) block[i] *= factor;
        continue;
      }
      for (int i = 0; i < size; i += kLanes)
        store(block + i, butterfly_lanes<1>(load(block + i)) * factor);
      butterflies(block, size, kLanes);
    }
  }
}
