// Groups brought into lanes for the search, one group a lane, scaled so that no square overflows or
// underflows. Included by quantize.inl; the operations are those of reference/grid_search.inl.

// Scratch of the search: 24 KiB of stack with 64-byte registers.
struct LaneGroups {
  alignas(64) vf x[128];        // scaled values, [element], a group in each lane
  alignas(64) vf centred[128];  // x - mean
  alignas(64) vf weight[128];   // scaled importance; unused without
  vf scale;                     // power of two: x = value * scale
  vf mean;                      // weighted
  vf total;                     // sum of weights
  vf sum;                       // sum of weight * centred: what rounding left of zero
  vf low, high;                 // of centred
  vi zeros;
  int count;
};

inline float normalizer(float largest) {
  const auto exponent = static_cast<int32_t>(float_bits(largest) >> 23);
  if (exponent == 0) return 1.0f;
  const int32_t wanted = 254 - exponent;
  return bits_float(static_cast<uint32_t>(wanted < 1 ? 1 : wanted) << 23);
}

inline vf inverse_power(vf power) { return (vf)((254u << 23) - (vu)power); }

inline vf scaled_value(vf value, vf scale) {
  const vf x = value * scale;
  const vi zero = (vi)(((vu)value & 0x7f800000u) == 0u) | (abs(x) < splat(kNegligible));
  return select(zero, vf{}, x);
}

// Brings up to kLanes groups into lanes; lanes beyond `present` repeat the first. The lanes of one
// element are contiguous, so each group is a strided column.
template <bool kWeighted>
inline void prepare(const QuantTask& task, int64_t first, int present,
                    const float (&scales)[kLanes], LaneGroups& groups) {
  groups.count = task.group;
  groups.scale = load(scales);
  auto* const columns = reinterpret_cast<float*>(groups.x);
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* values = task.values + (first + (lane < present ? lane : 0)) * task.group;
    for (int i = 0; i < task.group; ++i) columns[i * kLanes + lane] = values[i];
  }
  groups.total = splat(static_cast<float>(task.group));
  if (kWeighted) {
    auto* const weight_columns = reinterpret_cast<float*>(groups.weight);
    float powers[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t group = (first + (lane < present ? lane : 0)) % task.weight_groups;
      const float* weights = task.weights + group * task.group;
      float most = 0.0f;
      for (int i = 0; i < task.group; ++i) {
        most = weights[i] > most ? weights[i] : most;
        weight_columns[i * kLanes + lane] = weights[i];
      }
      powers[lane] = normalizer(most);
    }
    const vf power = load(powers);
    groups.total = vf{};
    for (int i = 0; i < task.group; ++i) {
      groups.weight[i] = scaled_value(groups.weight[i], power);
      groups.total += groups.weight[i];
    }
  }
  vf sum{};
  groups.zeros = vi{};
  vf low = scaled_value(groups.x[0], groups.scale);
  vf high = low;
  for (int i = 0; i < task.group; ++i) {
    const vf x = scaled_value(groups.x[i], groups.scale);
    groups.x[i] = x;
    sum += kWeighted ? groups.weight[i] * x : x;
    low = x < low ? x : low;
    high = x > high ? x : high;
    groups.zeros -= x == vf{};
  }
  groups.mean = sum / groups.total;
  groups.sum = vf{};
  for (int i = 0; i < task.group; ++i) {
    groups.centred[i] = groups.x[i] - groups.mean;
    groups.sum += kWeighted ? groups.weight[i] * groups.centred[i] : groups.centred[i];
  }
  groups.low = low - groups.mean;
  groups.high = high - groups.mean;
}
