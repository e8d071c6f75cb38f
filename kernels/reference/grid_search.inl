// The search of a group's scale and bias, one group after another: the definition. Included by
// quantize.inl.
//
// It minimises J = sum w (x - x_hat)^2 over pairs (s, b) that the metadata type holds, x_hat = s*q
// + b in float32 with q the nearest code. Steps, each with the sums of a group taken element after
// element:
//   1. coarse: 64 ranges [p1*min, p2*max] of the group with its mean removed; codes, then the
//   least-squares line
//      through (code, value); ranked by what that line explains, cqx^2 / cqq, and the best kSeeds
//      kept;
//   2. refit: kRefitRounds more rounds of (codes, line) for each seed;
//   3. stored: s and b rounded to the metadata type, with both neighbours of each; codes anew; J;
//   4. integer zero points: b = -z*s, for groups with exact zeros, and at 2 bits always.
// Plain rounding's pair takes part in 3, so the result is never worse. A group of which more than
// half is exactly zero takes pairs of step 4 or plain rounding's, which also puts zero on the
// lattice. Groups are scaled by a power of two to largest magnitude in [1, 4): no square overflows
// or underflows.

struct SearchGroup {
  float x[128];        // scaled values
  float centred[128];  // x - mean
  float weight[128];   // scaled importance, 1 without
  float scale;         // power of two: x = value * scale
  float mean;          // weighted
  float total;         // sum of weights
  float sum;           // sum of weight * centred: what rounding left of zero
  float low, high;     // of centred
  int count;
  int zeros;
};

struct Line {
  float s, b;  // on the centred values
};

struct Sums {
  float q, qq, qx;
};

// A power of two that brings `largest` into [1, 2), or as near as its own exponent range allows.
float normalizer(float largest) {
  const auto exponent = static_cast<int32_t>(float_bits(largest) >> 23);
  if (exponent == 0) return 1.0f;
  int32_t wanted = 254 - exponent;
  if (wanted < 1) wanted = 1;
  return bits_float(static_cast<uint32_t>(wanted) << 23);
}

float inverse_power(float power) { return bits_float((254u << 23) - float_bits(power)); }

float scaled_value(float value, float scale) {
  if ((float_bits(value) & 0x7f800000u) == 0) return 0.0f;
  const float x = value * scale;
  return std::fabs(x) < kNegligible ? 0.0f : x;
}

// A usable stored scale: never zero, never a denormal that a thread might flush.
float stored_scale(float s, FloatType type) {
  const float floor = type == FloatType::kF16 ? kSmallestNormalHalf : kSmallestNormal;
  const float value = stored(s, type);
  const uint32_t usable = type == FloatType::kF16 ? 1u : 0x00800000u;
  if ((float_bits(value) & 0x7fffffffu) >= usable) return value;
  return bits_float((float_bits(s) & 0x80000000u) | float_bits(floor));
}

float stored_bias(float b, FloatType type) {
  const float value = stored(b, type);
  return (float_bits(value) & 0x7f800000u) == 0 ? 0.0f : value;
}

uint32_t metadata_step(FloatType type) {
  switch (type) {
    case FloatType::kF32:
      return 0;
    case FloatType::kBF16:
      return 0x10000u;
    case FloatType::kF16:
      return 0x2000u;
  }
  return 0;
}

// The neighbour of a stored value by `by` (-1, 0, 1) steps of magnitude.
float neighbour(float value, int by, uint32_t step) {
  const uint32_t bits = float_bits(value);
  const auto moved = static_cast<int32_t>(bits & 0x7fffffffu) + by * static_cast<int32_t>(step);
  return bits_float((bits & 0x80000000u) | static_cast<uint32_t>(moved > 0 ? moved : 0));
}

void prepare(const QuantTask& task, int64_t g, float largest, SearchGroup& group) {
  const float* values = task.values + g * task.group;
  group.count = task.group;
  group.scale = normalizer(largest);
  group.total = static_cast<float>(task.group);
  for (int i = 0; i < task.group; ++i) group.weight[i] = 1.0f;
  if (task.weights != nullptr) {
    const float* weights = task.weights + (g % task.weight_groups) * task.group;
    float most = 0.0f;
    for (int i = 0; i < task.group; ++i) most = weights[i] > most ? weights[i] : most;
    const float power = normalizer(most);
    group.total = 0.0f;
    for (int i = 0; i < task.group; ++i) {
      group.weight[i] = scaled_value(weights[i], power);
      group.total += group.weight[i];
    }
  }
  float sum = 0.0f;
  float low = 0.0f, high = 0.0f;
  group.zeros = 0;
  for (int i = 0; i < task.group; ++i) {
    const float x = scaled_value(values[i], group.scale);
    group.x[i] = x;
    sum += group.weight[i] * x;
    low = (i == 0 || x < low) ? x : low;
    high = (i == 0 || x > high) ? x : high;
    group.zeros += x == 0.0f ? 1 : 0;
  }
  group.mean = sum / group.total;
  group.sum = 0.0f;
  for (int i = 0; i < task.group; ++i) {
    group.centred[i] = group.x[i] - group.mean;
    group.sum += group.weight[i] * group.centred[i];
  }
  group.low = low - group.mean;
  group.high = high - group.mean;
}

Sums code_sums(const SearchGroup& group, const Line& line, float n) {
  const float inverse = 1.0f / (line.s > kSmallestStep ? line.s : kSmallestStep);
  const float offset = -line.b * inverse;
  Sums sums{0.0f, 0.0f, 0.0f};
  for (int i = 0; i < group.count; ++i) {
    const float q = to_code(group.centred[i] * inverse + offset, n);
    const float wq = group.weight[i] * q;
    sums.q += wq;
    sums.qq += wq * q;
    sums.qx += wq * group.centred[i];
  }
  return sums;
}

// The least-squares line through (q, centred); its score is the part of sum w x^2 that it explains.
Line fit(const SearchGroup& group, const Line& line, const Sums& sums, float& score) {
  const float per_weight = 1.0f / group.total;
  const float mean_q = sums.q * per_weight;
  const float cqq = sums.qq - sums.q * mean_q;
  const float cqx = sums.qx - mean_q * group.sum;
  const float slope = cqx / cqq;
  const bool determined = cqq > kDegenerate * sums.qq && cqx > 0.0f;
  score = determined ? cqx * slope : 0.0f;
  const float s = determined ? slope : line.s;
  return {s, (group.sum - s * sums.q) * per_weight};
}

// 1 / s for a step of either sign.
float inverse_step(float s) {
  if (std::fabs(s) >= kSmallestStep) return 1.0f / s;
  return s < 0.0f ? -1.0f / kSmallestStep : 1.0f / kSmallestStep;
}

float stored_error(const SearchGroup& group, float s, float b, float n) {
  const float inverse = inverse_step(s);
  float error = 0.0f;
  for (int i = 0; i < group.count; ++i) {
    const float above = group.x[i] - b;
    const float r = above - s * to_code(above * inverse, n);
    error += (group.weight[i] * r) * r;
  }
  return error < kNoError ? 0.0f : error;
}

// The best stored pair so far, in units of the source.
struct Best {
  float s, b, error;
};

void consider(const SearchGroup& group, float s, float b, float n, bool allowed, Best& best) {
  const float error = stored_error(group, s * group.scale, b * group.scale, n);
  if (allowed && error < best.error) best = {s, b, error};
}

void coarse_seeds(const SearchGroup& group, int bits, float n, Line (&seeds)[kSeeds]) {
  float scores[kSeeds];
  for (int k = 0; k < kSeeds; ++k) {
    scores[k] = -1.0f;
    seeds[k] = {0.0f, 0.0f};
  }
  for (const float p1 : kGrid[bits]) {
    for (const float p2 : kGrid[bits]) {
      const float low = p1 * group.low;
      const float high = p2 * group.high;
      Line line{(high - low) / n, low};
      float score = 0.0f;
      line = fit(group, line, code_sums(group, line, n), score);
      for (int k = 0; k < kSeeds; ++k) {
        if (!(score > scores[k])) continue;
        const float displaced_score = scores[k];
        const Line displaced = seeds[k];
        scores[k] = score;
        seeds[k] = line;
        score = displaced_score;
        line = displaced;
      }
    }
  }
}

// Integer zero points next to `seed`: b = -z*s, the slope refitted with z held.
void consider_zero_points(const SearchGroup& group, const Line& seed, float n, FloatType type,
                          bool allowed, Best& best) {
  const float up = inverse_power(group.scale);
  const float from_zero = -(seed.b + group.mean) / seed.s;
  const float below = std::floor(from_zero > 0.0f ? (from_zero < n ? from_zero : n) : 0.0f);
  for (int side = 0; side < 2; ++side) {
    const float above = below + static_cast<float>(side);
    const float z = above < n ? above : n;
    float s = seed.s;
    for (int round = 0; round < kRefitRounds; ++round) {
      const Sums sums = code_sums(group, {s, -z * s - group.mean}, n);
      const float dd = (sums.qq - (z + z) * sums.q) + (z * z) * group.total;
      const float dx = (sums.qx + group.mean * sums.q) - z * (group.sum + group.mean * group.total);
      s = dd > kDegenerate * sums.qq && dx > 0.0f ? dx / dd : s;
    }
    const float s_stored = stored_scale(s * up, type);
    consider(group, s_stored, stored_bias(-z * s_stored, type), n, allowed, best);
  }
}

void quantize_mse(const QuantTask& task) {
  const float n = static_cast<float>((1 << task.bits) - 1);
  const FloatType type = task.metadata;
  const uint32_t step = metadata_step(type);
  SearchGroup group;
  for (int64_t g = 0; g < task.groups; ++g) {
    const float* values = task.values + g * task.group;
    const PlainPair plain = plain_pair(values, task.group, task.bits);
    prepare(task, g, plain.largest, group);
    const bool mostly_zero = 2 * group.zeros > group.count;
    const bool zero_points = group.zeros > 0 || task.bits == 2;

    const float infinity = bits_float(0x7f800000u);
    Best best{stored(plain.scale, type), stored(plain.bias, type), infinity};
    consider(group, best.s, best.b, n, true, best);

    const float up = inverse_power(group.scale);
    // One value throughout, and its rounding: b = stored(mean), s the rest.
    const float centre = group.mean * up;
    const float centre_stored = stored_bias(centre, type);
    consider(group, stored_scale(centre - centre_stored, type), centre_stored, n, !mostly_zero,
             best);

    Line seeds[kSeeds];
    coarse_seeds(group, task.bits, n, seeds);
    for (Line& seed : seeds) {
      float score = 0.0f;
      for (int round = 0; round < kRefitRounds; ++round) {
        seed = fit(group, seed, code_sums(group, seed, n), score);
      }
      const float s = stored_scale(seed.s * up, type);
      const float b = stored_bias((seed.b + group.mean) * up, type);
      for (int i = -1; i <= 1; ++i) {
        for (int j = -1; j <= 1; ++j) {
          consider(group, stored_scale(neighbour(s, i, step), type),
                   stored_bias(neighbour(b, j, step), type), n, !mostly_zero, best);
        }
      }
    }
    for (const Line& seed : seeds) consider_zero_points(group, seed, n, type, zero_points, best);

    const float s = best.s * group.scale;
    const float b = best.b * group.scale;
    const float inverse = inverse_step(s);
    uint8_t* codes = task.codes + g * task.group;
    for (int i = 0; i < task.group; ++i) {
      codes[i] = static_cast<uint8_t>(to_code((group.x[i] - b) * inverse, n));
    }
    task.scales[g] = best.s;
    task.biases[g] = best.b;
  }
}
