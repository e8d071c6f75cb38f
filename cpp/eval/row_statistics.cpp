// Loops over kLanes independent accumulators, written so that the compiler turns them into vector
// code for the baseline: no branches, no calls. Per entry: one exponential for a norm, one for a
// divergence; sums are a fixed tree, so they do not depend on threads or on the level.
#include "eval/row_statistics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace jang {
namespace {

constexpr std::size_t kLanes = 8;
using Lanes = std::array<double, kLanes>;

// exp(x) for x <= 0, relative error below 1e-15: x = n ln2 + r with |r| <= ln2 / 2, a Taylor
// polynomial of degree 13 for exp(r) (the next term is r^14 / 14! < 5e-18), times 2^n. Below -700
// the result is that of -700, 1e-304, which no sum beside exp(0) = 1 can feel. NaN stays NaN.
inline double exp_nonpositive(double x) {
  constexpr double kLog2e = 1.4426950408889634074;
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;  // 11 zero bits at the end: n * high is exact
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  x = x < -700.0 ? -700.0 : x;
  const double shifted = x * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  return p * std::bit_cast<double>(scale);
}

double total(const Lanes& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

float largest(std::span<const float> values) {
  std::array<float, kLanes> best;
  best.fill(values[0]);
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
    }
  }
  for (; i < values.size(); ++i) best[0] = std::max(best[0], values[i]);
  return *std::max_element(best.begin(), best.end());
}

struct Moments {
  Lanes weight{}, weighted{}, first{}, second{};

  // Both rows less their own maximum: an offset of all logits would only cost digits.
  inline void add(std::size_t lane, float reference, float model, double max, double model_max) {
    const double below = static_cast<double>(reference) - max;
    const double difference = below - (static_cast<double>(model) - model_max);
    const double w = exp_nonpositive(below);
    weight[lane] += w;
    weighted[lane] += w * difference;
    first[lane] += difference;
    second[lane] += difference * difference;
  }
};

}  // namespace

RowNorm row_norm(std::span<const float> logits) {
  JANG_ASSERT(!logits.empty());
  const float max = largest(logits);
  const auto shift = static_cast<double>(max);
  Lanes sums{};
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += exp_nonpositive(static_cast<double>(logits[i + lane]) - shift);
    }
  }
  for (; i < logits.size(); ++i) sums[0] += exp_nonpositive(static_cast<double>(logits[i]) - shift);
  const auto top = std::find(logits.begin(), logits.end(), max) - logits.begin();
  return {max, std::log(total(sums)), static_cast<int32_t>(top)};
}

Divergence divergence(std::span<const float> reference, const RowNorm& reference_norm,
                      std::span<const float> model, const RowNorm& model_norm) {
  JANG_ASSERT(reference.size() == model.size() && !reference.empty());
  const auto max = static_cast<double>(reference_norm.max);
  const auto model_max = static_cast<double>(model_norm.max);
  Moments sums;
  std::size_t i = 0;
  for (; i + kLanes <= reference.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums.add(lane, reference[i + lane], model[i + lane], max, model_max);
    }
  }
  for (; i < reference.size(); ++i) sums.add(0, reference[i], model[i], max, model_max);
  // log p - log q is the difference less that of the logs of the sums, the same for all entries.
  const double log_ratio = reference_norm.log_sum - model_norm.log_sum;
  const double kl = total(sums.weighted) / total(sums.weight) - log_ratio;
  const auto n = static_cast<double>(reference.size());
  const double mean = total(sums.first) / n;
  const double variance = total(sums.second) / n - mean * mean;
  // Neither can be negative but by rounding; written so that NaN passes.
  return {kl < 0 ? 0 : kl, variance < 0 ? 0 : variance};
}

}  // namespace jang
