// Activations rounded to int8 per group, for the integer kernels.
//
//   operations per kLanes floats: 3 to find the maximum and the sum, 5 to round and to sum codes.
//   About 1 us for 4096 floats, once per distinct input; the bound is arithmetic, the input is in
//   L1 or L2.
#include "kernels/generic/activation_position.inl"

// Magnitudes compared as integers: NaN > infinity > every number.
inline vi larger_magnitude(vi top, vf v) {
  const vi size = (vi)v & splat_int(0x7fffffff);
  return size > top ? size : top;
}

inline float largest_lane(vi magnitudes) {
  int32_t lanes[kLanes];
  __builtin_memcpy(lanes, &magnitudes, sizeof magnitudes);
  int32_t largest = 0;
  for (int i = 0; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  float value;
  __builtin_memcpy(&value, &largest, sizeof value);
  return value;
}

// How values of a largest magnitude become codes in [-127, 127]. Too small ones become zeros; one
// that is not finite makes the scale, and so all that comes of it, a NaN.
struct Int8Scale {
  bool rounds;  // else all codes are 0
  float scale;
  float inverse;

  explicit Int8Scale(float largest)
      : rounds(largest >= kSmallestScaledMax && largest < __builtin_inff()),
        scale(rounds                         ? largest / 127.0f
              : largest < kSmallestScaledMax ? 0.0f
                                             : __builtin_nanf("")),
        inverse(rounds ? 127.0f / largest : 0.0f) {}
};

// Half to even for magnitudes below 2^22: the sum's low bits are the integer. Gives the integers.
inline vi store_int8(int8_t* out, vf v) {
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  const vi integers = (vi)(v + kMagic) - (vi)splat(kMagic);
  const Bytes bytes = __builtin_convertvector(integers, Bytes);
  __builtin_memcpy(out, &bytes, sizeof bytes);
  return integers;
}

// One group into `codes` and entry g of the other arrays.
inline void quantize_group(const float* x, int group, int8_t* codes, int64_t g, float* scales,
                           float* sums, float* residuals) {
  vi top{};
  vf lane_sums{};
  for (int i = 0; i < group; i += kLanes) {
    const vf v = load(x + i);
    top = larger_magnitude(top, v);
    lane_sums += v;
  }
  const Int8Scale rule(largest_lane(top));
  const float sum = sum_tree(lane_sums);
  scales[g] = rule.scale;
  sums[g] = sum;
  if (!rule.rounds) {
    residuals[g] = sum;
    for (int i = 0; i < group; ++i) codes[i] = 0;
    return;
  }
  vi code_sum{};
  for (int i = 0; i < group; i += kLanes)
    code_sum += store_int8(codes + i, load(x + i) * splat(rule.inverse));
  residuals[g] = sum - rule.scale * sum_tree(to_float(code_sum));
}

// Every kPhases-th code of each kPhases * kEach ones behind one another.
template <int kPhases, int kEach>
void gather_phases(const int8_t* natural, int8_t* codes) {
  for (int h = 0; h < kActivationBlock; h += kPhases * kEach) {
    for (int p = 0; p < kPhases; ++p) {
      for (int i = 0; i < kEach; ++i) codes[h + kEach * p + i] = natural[h + kPhases * i + p];
    }
  }
}

// One block of a row from the order of columns into `order`.
inline void reorder_block(ActivationOrder order, int8_t* codes) {
  int8_t natural[kActivationBlock];
  __builtin_memcpy(natural, codes, sizeof natural);
  switch (order) {
    case ActivationOrder::kNatural:
      return;
    case ActivationOrder::kNibbles:
      return gather_phases<2, 32>(natural, codes);
    case ActivationOrder::kCrumbs:
      return gather_phases<4, 32>(natural, codes);
    case ActivationOrder::kWideNibbles:
      return gather_phases<2, 64>(natural, codes);
    case ActivationOrder::kWideCrumbs:
      return gather_phases<4, 64>(natural, codes);
  }
}

void quantize_activations(const float* x, int64_t x_stride, int64_t tokens, int64_t columns,
                          int group, ActivationOrder order, const Int8Activations& out) {
  const int64_t groups = columns / group;
  for (int64_t t = 0; t < tokens; ++t) {
    int8_t* codes = out.codes + t * out.code_stride;
    float* scales = out.scales + t * out.group_stride;
    float* sums = out.sums + t * out.group_stride;
    float* residuals = out.residuals + t * out.group_stride;
    for (int64_t g = 0; g < groups; ++g) {
      quantize_group(x + t * x_stride + g * group, group, codes + g * group, g, scales, sums,
                     residuals);
    }
    for (int64_t g = groups; g < out.group_stride; ++g) scales[g] = sums[g] = residuals[g] = 0.0f;
    for (int64_t c = columns; c < out.code_stride; ++c) codes[c] = 0;
    if (order == ActivationOrder::kNatural) continue;
    for (int64_t c = 0; c < out.code_stride; c += kActivationBlock) reorder_block(order, codes + c);
  }
}
