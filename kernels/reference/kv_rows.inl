// Rows of floats into the KV cache and back, element by element, and the rotation before q4.

// Element `channel` of a row in double.
double kv_at(const uint8_t* block, KvType type, int64_t dim, int64_t row, int64_t channel) {
  const int64_t row_bytes = kv_row_bytes(type, dim);
  const uint8_t* p = block + row * row_bytes;
  const uint8_t* words = block + kKvBlock * row_bytes;
  switch (type) {
    case KvType::kF32:
      return float_at(p, FloatType::kF32, channel);
    case KvType::kF16:
      return float_at(p, FloatType::kF16, channel);
    case KvType::kBF16:
      return float_at(p, FloatType::kBF16, channel);
    case KvType::kQ8:
      return static_cast<double>(element<float>(words, row)) * element<int8_t>(p, channel);
    case KvType::kQ4:
      break;
  }
  const int64_t group = channel / kKvGroup;
  const int64_t within = channel % kKvGroup;
  const uint8_t byte = p[group * (kKvGroup / 2) + within % (kKvGroup / 2)];
  const int code = within < kKvGroup / 2 ? byte & 15 : byte >> 4;
  const auto word = element<uint32_t>(words, row * (kv_padded(type, dim) / kKvGroup) + group);
  return static_cast<double>(bits_float(word & 0xffff0000u)) * code + bits_float(word << 16);
}

void store_q8(const float* x, int dim, int8_t* codes, int64_t padded, uint8_t* scale_out) {
  float largest = 0.0f;
  bool finite = true;
  for (int i = 0; i < dim; ++i) {
    finite = finite && std::isfinite(x[i]);
    largest = std::fmax(largest, std::fabs(x[i]));
  }
  const bool none = !finite || largest < kSmallestScaledMax;
  const float scale = finite ? (none ? 0.0f : largest / 127.0f) : std::nanf("");
  __builtin_memcpy(scale_out, &scale, sizeof scale);
  for (int64_t i = 0; i < padded; ++i) {
    const float code = none || i >= dim ? 0.0f : std::nearbyint(x[i] * (127.0f / largest));
    codes[i] = static_cast<int8_t>(code);
  }
}

void store_q4(const float* x, int count, uint8_t* bytes, uint8_t* word_out) {
  float least = x[0], most = x[0];
  bool finite = true;
  for (int i = 0; i < count; ++i) {
    finite = finite && std::isfinite(x[i]);
    least = std::fmin(least, x[i]);
    most = std::fmax(most, x[i]);
  }
  const uint32_t bias_bits = float_to_bf16(least + 0.0f);
  const float bias = bf16_to_float(static_cast<uint16_t>(bias_bits));
  const uint32_t scale_bits = float_to_bf16((most - bias) / 15.0f);
  const float scale = bf16_to_float(static_cast<uint16_t>(scale_bits));
  finite = finite && std::isfinite(scale);
  const uint32_t word = finite ? scale_bits << 16 | bias_bits : 0x7fc00000u;
  __builtin_memcpy(word_out, &word, sizeof word);
  const bool usable = finite && std::fabs(scale) >= kSmallestScaledMax;
  const float inverse = usable ? 1.0f / scale : 0.0f;
  int codes[kKvGroup];
  for (int i = 0; i < kKvGroup; ++i) {
    const float code = usable ? std::nearbyint((x[i < count ? i : 0] - bias) * inverse) : 0.0f;
    codes[i] = static_cast<int>(std::fmin(std::fmax(code, 0.0f), 15.0f));
  }
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
    if (type == KvType::kQ8) {
      store_q8(x, dim, reinterpret_cast<int8_t*>(row), padded, words + 4 * at);
    } else if (type == KvType::kQ4) {
      for (int64_t g = 0; g * kKvGroup < dim; ++g) {
        const int64_t left = dim - g * kKvGroup;
        store_q4(x + g * kKvGroup, static_cast<int>(left < kKvGroup ? left : kKvGroup),
                 row + g * (kKvGroup / 2), words + (at * (padded / kKvGroup) + g) * 4);
      }
    } else {
      const FloatType to = type == KvType::kF32   ? FloatType::kF32
                           : type == KvType::kF16 ? FloatType::kF16
                                                  : FloatType::kBF16;
      const int64_t bytes = row_bytes / padded;
      for (int64_t d = 0; d < padded; ++d) {
        float v = d < dim ? x[d] : 0.0f;
        // Comparisons that a NaN fails.
        if (type == KvType::kF16 && v > 65504.0f) v = 65504.0f;
        if (type == KvType::kF16 && v < -65504.0f) v = -65504.0f;
        from_float(&v, to, 1, row + d * bytes);
      }
    }
  }
}

void kv_load(const uint8_t* const* blocks, int64_t position, int64_t count, int dim, KvType type,
             float* out, int64_t out_stride) {
  for (int64_t i = 0; i < count; ++i) {
    for (int d = 0; d < dim; ++d) {
      out[i * out_stride + d] = static_cast<float>(
          kv_at(blocks[(position + i) / kKvBlock], type, dim, (position + i) % kKvBlock, d));
    }
  }
}

// The matrix has -1 where the bits that row and column share are odd in number.
void hadamard(float* x, int64_t stride, int64_t rows, int n) {
  const int size = n & -n;
  constexpr int kMost = 4096;
  if (size > kMost) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int first = 0; first < n; first += size) {
      float* block = x + r * stride + first;
      float rotated[kMost];
      for (int i = 0; i < size; ++i) {
        double sum = 0.0;
        for (int j = 0; j < size; ++j)
          sum += __builtin_parity(static_cast<unsigned>(i & j)) != 0
                     ? -static_cast<double>(block[j])
                     : block[j];
        rotated[i] = static_cast<float>(sum / std::sqrt(static_cast<double>(size)));
      }
      for (int i = 0; i < size; ++i) block[i] = rotated[i];
    }
  }
}
