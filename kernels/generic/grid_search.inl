// The search of scale and bias with one group per lane: sums run over the elements of a group in
// the same order at every vector width. The method is described, and defined, in
// reference/grid_search.inl.
//
// Included by quantize.inl after lane_groups.inl. Cost: per weight 64 coarse passes, 8 refits and
// 40 evaluations of a stored pair (and 24 passes for zero points, only where some lane needs them)
// of 11 vector operations each, 13 with importance: about 1,250 operations a weight, divided by the
// lanes.

// Candidates that share a load and fill the pipelines; as many as the registers hold.
constexpr int kConcurrent = kLanes == 16 ? 4 : 2;

struct Line {
  vf s, b;  // on the centred values
};

struct Sums {
  vf q, qq, qx;
};

// As Line, in units of the source, with the error of the pair.
struct Best {
  vf s, b, error;
};

inline vf stored_scale(vf s, FloatType type) {
  const bool half = type == FloatType::kF16;
  const vu floor = splat_bits(float_bits(half ? kSmallestNormalHalf : kSmallestNormal));
  const vf value = stored(s, type);
  const vi usable = (vi)(((vu)value & 0x7fffffffu) >= (half ? 1u : 0x00800000u));
  return select(usable, value, (vf)(((vu)s & 0x80000000u) | floor));
}

inline vf stored_bias(vf b, FloatType type) {
  const vf value = stored(b, type);
  return select((vi)(((vu)value & 0x7f800000u) == 0u), vf{}, value);
}

inline int32_t metadata_step(FloatType type) {
  return type == FloatType::kF32 ? 0 : type == FloatType::kBF16 ? 0x10000 : 0x2000;
}

inline vf neighbour(vf value, int32_t by) {
  const vi moved = ((vi)value & 0x7fffffff) + by;
  const vi size = moved > vi{} ? moved : vi{};
  return (vf)(((vi)value & splat_int(static_cast<int32_t>(0x80000000u))) | size);
}

// t rounded to nearest even and clamped to [0, n], still with kRound added: its bits are kRoundBits
// + code. The clamp is on integers, which other units of the core do than float additions.
constexpr int32_t kRoundBits = 0x4b000000;
inline vf round_clamp(vf t, vi highest) {
  return (vf)min_int(max_int((vi)(t + kRound), splat_int(kRoundBits)), highest);
}

inline vi highest_code(int bits) { return splat_int(kRoundBits + (1 << bits) - 1); }

template <bool kWeighted>
inline void code_sums(const LaneGroups& groups, const Line* lines, vi highest, Sums* sums) {
  vf inverse[kConcurrent], offset[kConcurrent];
  vf sq[kConcurrent], sqq[kConcurrent], sqx[kConcurrent];
  vu whole[kConcurrent];  // without importance sum q is an integer
  for (int c = 0; c < kConcurrent; ++c) {
    const vf s = lines[c].s;
    inverse[c] = 1.0f / (s > splat(kSmallestStep) ? s : splat(kSmallestStep));
    offset[c] = -lines[c].b * inverse[c];
    sq[c] = sqq[c] = sqx[c] = vf{};
    whole[c] = vu{};
  }
  for (int i = 0; i < groups.count; ++i) {
    const vf x = groups.centred[i];
    for (int c = 0; c < kConcurrent; ++c) {
      const vf rounded = round_clamp(x * inverse[c] + offset[c], highest);
      const vf q = rounded - kRound;
      const vf wq = kWeighted ? groups.weight[i] * q : q;
      if (kWeighted) {
        sq[c] += wq;
      } else {
        whole[c] += (vu)rounded;
      }
      sqq[c] += wq * q;
      sqx[c] += wq * x;
    }
  }
  const auto bias = static_cast<uint32_t>(groups.count) * static_cast<uint32_t>(kRoundBits);
  for (int c = 0; c < kConcurrent; ++c) {
    sums[c] = {kWeighted ? sq[c] : to_float((vi)(whole[c] - bias)), sqq[c], sqx[c]};
  }
}

// The least-squares line through (q, centred); its score is the part of sum w x^2 that it explains.
inline Line fit(const LaneGroups& groups, const Line& line, const Sums& sums, vf& score) {
  const vf per_weight = 1.0f / groups.total;
  const vf mean_q = sums.q * per_weight;
  const vf cqq = sums.qq - sums.q * mean_q;
  const vf cqx = sums.qx - mean_q * groups.sum;
  const vf slope = cqx / cqq;
  const vi determined = (cqq > kDegenerate * sums.qq) & (cqx > vf{});
  score = select(determined, cqx * slope, vf{});
  const vf s = select(determined, slope, line.s);
  return {s, (groups.sum - s * sums.q) * per_weight};
}

// 1 / s for a step of either sign.
inline vf inverse_step(vf s) {
  const vf size = abs(s);
  const vf usable = size > splat(kSmallestStep) ? size : splat(kSmallestStep);
  const vf inverse = 1.0f / usable;
  return s < vf{} ? -inverse : inverse;
}

// Evaluates `count` stored pairs (a multiple of kConcurrent) in order; `allowed` masks lanes per
// pair.
template <bool kWeighted>
inline void consider(const LaneGroups& groups, const Line* pairs, const vi* allowed, int count,
                     vi highest, Best& best) {
  for (int first = 0; first < count; first += kConcurrent) {
    vf s[kConcurrent], b[kConcurrent], inverse[kConcurrent], error[kConcurrent];
    for (int c = 0; c < kConcurrent; ++c) {
      s[c] = pairs[first + c].s * groups.scale;
      b[c] = pairs[first + c].b * groups.scale;
      inverse[c] = inverse_step(s[c]);
      error[c] = vf{};
    }
    for (int i = 0; i < groups.count; ++i) {
      const vf x = groups.x[i];
      for (int c = 0; c < kConcurrent; ++c) {
        const vf above = x - b[c];
        const vf r = above - s[c] * (round_clamp(above * inverse[c], highest) - kRound);
        error[c] += kWeighted ? (groups.weight[i] * r) * r : r * r;
      }
    }
    for (int c = 0; c < kConcurrent; ++c) {
      const vf e = select(error[c] < splat(kNoError), vf{}, error[c]);
      const vi better = (e < best.error) & allowed[first + c];
      best.error = select(better, e, best.error);
      best.s = select(better, pairs[first + c].s, best.s);
      best.b = select(better, pairs[first + c].b, best.b);
    }
  }
}

template <bool kWeighted>
inline void coarse_seeds(const LaneGroups& groups, int bits, Line (&seeds)[kSeeds]) {
  const vf n = splat(static_cast<float>((1 << bits) - 1));
  const vi highest = highest_code(bits);
  vf scores[kSeeds];
  for (int k = 0; k < kSeeds; ++k) {
    scores[k] = splat(-1.0f);
    seeds[k] = {vf{}, vf{}};
  }
  for (int i = 0; i < kGridPoints; ++i) {
    const vf low = kGrid[bits][i] * groups.low;
    for (int first = 0; first < kGridPoints; first += kConcurrent) {
      Line lines[kConcurrent];
      Sums sums[kConcurrent];
      for (int c = 0; c < kConcurrent; ++c) {
        lines[c] = {(kGrid[bits][first + c] * groups.high - low) / n, low};
      }
      code_sums<kWeighted>(groups, lines, highest, sums);
      for (int c = 0; c < kConcurrent; ++c) {
        vf score;
        Line line = fit(groups, lines[c], sums[c], score);
        for (int k = 0; k < kSeeds; ++k) {
          const vi better = score > scores[k];
          const vf worse = select(better, scores[k], score);
          const Line displaced = {select(better, seeds[k].s, line.s),
                                  select(better, seeds[k].b, line.b)};
          scores[k] = select(better, score, scores[k]);
          seeds[k] = {select(better, line.s, seeds[k].s), select(better, line.b, seeds[k].b)};
          score = worse;
          line = displaced;
        }
      }
    }
  }
}

// Integer zero points next to each seed: b = -z*s, the slope refitted with z held.
template <bool kWeighted>
inline void consider_zero_points(const LaneGroups& groups, const Line (&seeds)[kSeeds],
                                 const QuantTask& task, vi allowed, Best& best) {
  const FloatType type = task.metadata;
  const vf n = splat(static_cast<float>((1 << task.bits) - 1));
  const vi highest = highest_code(task.bits);
  const vf up = inverse_power(groups.scale);
  constexpr int kZeroPoints = 2 * kSeeds;
  Line pairs[kZeroPoints];
  vi masks[kZeroPoints];
  vf z[kZeroPoints];
  for (int k = 0; k < kZeroPoints; ++k) {
    const Line& seed = seeds[k / 2];
    const vf from_zero = -(seed.b + groups.mean) / seed.s;
    const vf low = from_zero > vf{} ? from_zero : vf{};
    const vf above = to_float(to_int(low < n ? low : n)) + static_cast<float>(k % 2);
    z[k] = above < n ? above : n;
    pairs[k].s = seed.s;
    masks[k] = allowed;
  }
  for (int first = 0; first < kZeroPoints; first += kConcurrent) {
    for (int round = 0; round < kRefitRounds; ++round) {
      Line lines[kConcurrent];
      Sums sums[kConcurrent];
      for (int c = 0; c < kConcurrent; ++c) {
        const vf s = pairs[first + c].s;
        lines[c] = {s, -z[first + c] * s - groups.mean};
      }
      code_sums<kWeighted>(groups, lines, highest, sums);
      for (int c = 0; c < kConcurrent; ++c) {
        const vf zc = z[first + c];
        const vf dd = (sums[c].qq - (zc + zc) * sums[c].q) + (zc * zc) * groups.total;
        const vf dx =
            (sums[c].qx + groups.mean * sums[c].q) - zc * (groups.sum + groups.mean * groups.total);
        const vi determined = (dd > kDegenerate * sums[c].qq) & (dx > vf{});
        pairs[first + c].s = select(determined, dx / dd, lines[c].s);
      }
    }
  }
  for (int k = 0; k < kZeroPoints; ++k) {
    const vf s = stored_scale(pairs[k].s * up, type);
    pairs[k] = {s, stored_bias(-z[k] * s, type)};
  }
  consider<kWeighted>(groups, pairs, masks, kZeroPoints, highest, best);
}

inline bool any(vi mask) {
  int32_t found = 0;
  for (int lane = 0; lane < kLanes; ++lane) found |= mask[lane];
  return found != 0;
}

template <bool kWeighted>
inline Best search(const LaneGroups& groups, const Line& plain, const QuantTask& task) {
  constexpr int kPairs = 2 + kSeeds * kNeighbours;
  constexpr int kPadded = (kPairs + kConcurrent - 1) / kConcurrent * kConcurrent;
  const FloatType type = task.metadata;
  const vi highest = highest_code(task.bits);
  const vf up = inverse_power(groups.scale);
  const vi mostly_zero = groups.zeros + groups.zeros > splat_int(groups.count);
  const vi zero_points = task.bits == 2 ? splat_int(-1) : (vi)(groups.zeros > vi{});

  Line seeds[kSeeds];
  coarse_seeds<kWeighted>(groups, task.bits, seeds);
  for (int round = 0; round < kRefitRounds; ++round) {
    for (int first = 0; first < kSeeds; first += kConcurrent) {
      Sums sums[kConcurrent];
      vf score;
      code_sums<kWeighted>(groups, seeds + first, highest, sums);
      for (int c = 0; c < kConcurrent; ++c)
        seeds[first + c] = fit(groups, seeds[first + c], sums[c], score);
    }
  }

  Line pairs[kPadded];
  vi allowed[kPadded];
  for (int k = 0; k < kPadded; ++k) {
    pairs[k] = plain;
    allowed[k] = ~mostly_zero;
  }
  allowed[0] = splat_int(-1);
  // One value throughout, and its rounding: b = stored(mean), s the rest.
  const vf centre = groups.mean * up;
  pairs[1].b = stored_bias(centre, type);
  pairs[1].s = stored_scale(centre - pairs[1].b, type);
  const int32_t step = metadata_step(type);
  Line* next = pairs + 2;
  for (const Line& seed : seeds) {
    const vf s = stored_scale(seed.s * up, type);
    const vf b = stored_bias((seed.b + groups.mean) * up, type);
    for (int i = -1; i <= 1; ++i) {
      for (int j = -1; j <= 1; ++j) {
        *next++ = {stored_scale(neighbour(s, i * step), type),
                   stored_bias(neighbour(b, j * step), type)};
      }
    }
  }
  Best best{plain.s, plain.b, (vf)splat_bits(0x7f800000u)};
  consider<kWeighted>(groups, pairs, allowed, kPadded, highest, best);
  if (any(zero_points)) consider_zero_points<kWeighted>(groups, seeds, task, zero_points, best);
  return best;
}

// Codes of one group against its final pair, with the operations of consider().
inline void final_codes(const float* values, int group, float scale, float s, float b, vf n,
                        uint8_t* codes) {
  const float scaled_b = b * scale;
  const float inverse = inverse_step(splat(s * scale))[0];
  for (int i = 0; i < group; i += kLanes) {
    const vf x = scaled_value(load(values + i), splat(scale));
    store_codes(codes + i, to_code((x - scaled_b) * inverse, n));
  }
}

template <bool kWeighted>
void search_all(const QuantTask& task) {
  const vf n = splat(static_cast<float>((1 << task.bits) - 1));
  LaneGroups groups;
  for (int64_t first = 0; first < task.groups; first += kLanes) {
    const int64_t left = task.groups - first;
    const int present = left < kLanes ? static_cast<int>(left) : kLanes;
    float scales[kLanes], plain_s[kLanes], plain_b[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* values = task.values + (first + (lane < present ? lane : 0)) * task.group;
      const PlainPair plain = plain_pair(values, task.group, task.bits);
      scales[lane] = normalizer(plain.largest);
      plain_s[lane] = plain.scale;
      plain_b[lane] = plain.bias;
    }
    prepare<kWeighted>(task, first, present, scales, groups);
    const Line plain{stored(load(plain_s), task.metadata), stored(load(plain_b), task.metadata)};
    const Best best = search<kWeighted>(groups, plain, task);
    for (int lane = 0; lane < present; ++lane) {
      const int64_t g = first + lane;
      task.scales[g] = best.s[lane];
      task.biases[g] = best.b[lane];
      final_codes(task.values + g * task.group, task.group, scales[lane], best.s[lane],
                  best.b[lane], n, task.codes + g * task.group);
    }
  }
}

void quantize_mse(const QuantTask& task) {
  if (task.weights != nullptr) return search_all<true>(task);
  search_all<false>(task);
}
