// The quantizers, one group after another in plain float arithmetic: the definition that every
// level matches bit for bit. Included inside the unnamed namespace of the reference table, after
// kernel_table.h and <cmath>.
//
// Here: plain rounding (MLX's CPU rule), packing, and rounding to the metadata type. The search of
// scale and bias is grid_search.inl.
#include "kernels/generic/search_constants.inl"

uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

float bits_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// A float as the metadata type holds it: nearest, ties to even, infinity past the largest value.
float stored(float x, FloatType type) {
  const uint32_t u = float_bits(x);
  switch (type) {
    case FloatType::kF32:
      return x;
    case FloatType::kBF16:
      return bits_float((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
    case FloatType::kF16:
      break;
  }
  const uint32_t sign = u & 0x80000000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x477ff000u) return bits_float(sign | 0x7f800000u);
  if (magnitude < 0x38800000u) {  // subnormal halves are multiples of 2^-24, one ulp of 0.5
    return bits_float(sign | float_bits((bits_float(magnitude) + 0.5f) - 0.5f));
  }
  return bits_float(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & ~0x1fffu));
}

// Clamped to [0, n] and rounded to nearest even. A NaN gives 0.
float to_code(float t, float n) {
  const float low = t > 0.0f ? t : 0.0f;
  const float high = low < n ? low : n;
  return (high + kRound) - kRound;
}

// Order of the floats as integers: independent of the denormal mode of the thread.
int32_t order_key(float x) {
  const auto bits = static_cast<int32_t>(float_bits(x));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// MLX's (s, b) of one group before rounding to the metadata type: docs/format.md, section 3.
struct PlainPair {
  float scale, bias;
  float largest;  // magnitude of the largest element
};

PlainPair plain_pair(const float* x, int group, int bits) {
  float low = x[0], high = x[0];
  for (int i = 1; i < group; ++i) {
    if (order_key(x[i]) < order_key(low)) low = x[i];
    if (order_key(x[i]) > order_key(high)) high = x[i];
  }
  const uint32_t low_size = float_bits(low) & 0x7fffffffu;
  const uint32_t high_size = float_bits(high) & 0x7fffffffu;
  const bool negative = low_size > high_size;
  const float n = static_cast<float>((1 << bits) - 1);
  const float step = (high - low) / n;
  float scale = step > 1e-7f ? step : 1e-7f;
  if (!negative) scale = -scale;
  const float edge = negative ? low : high;
  const float q0 = std::nearbyint(edge / scale);
  const float largest = bits_float(negative ? low_size : high_size);
  if (q0 == 0.0f) return {scale, 0.0f, largest};
  return {edge / q0, edge, largest};
}

void quantize_rtn(const QuantTask& task) {
  const float n = static_cast<float>((1 << task.bits) - 1);
  for (int64_t g = 0; g < task.groups; ++g) {
    const float* x = task.values + g * task.group;
    uint8_t* codes = task.codes + g * task.group;
    const PlainPair pair = plain_pair(x, task.group, task.bits);
    for (int i = 0; i < task.group; ++i) {
      codes[i] = static_cast<uint8_t>(to_code((x[i] - pair.bias) / pair.scale, n));
    }
    task.scales[g] = stored(pair.scale, task.metadata);
    task.biases[g] = stored(pair.bias, task.metadata);
  }
}

void pack(const uint8_t* codes, int64_t n, int bits, uint8_t* out) {
  __builtin_memset(out, 0, static_cast<size_t>(n / 8 * bits));
  for (int64_t i = 0; i < n; ++i) {
    for (int k = 0; k < bits; ++k) {
      const int64_t at = i * bits + k;
      const int bit = (codes[i] >> k) & 1;
      out[at / 8] = static_cast<uint8_t>(out[at / 8] | (bit << (at % 8)));
    }
  }
}

void unpack(const uint8_t* packed, int64_t n, int bits, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    int code = 0;
    for (int k = 0; k < bits; ++k) {
      const int64_t at = i * bits + k;
      code |= ((packed[at / 8] >> (at % 8)) & 1) << k;
    }
    codes[i] = static_cast<uint8_t>(code);
  }
}

#include "kernels/reference/grid_search.inl"
