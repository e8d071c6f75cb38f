#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace jang {

namespace {

/// The channel pair that turns `turns` times within the original positions, as a fraction.
double yarn_channel(const RopeSpec& rope, double turns) {
  const double wavelength = static_cast<double>(rope.original_positions) / turns;
  return static_cast<double>(rope.rotated) * std::log(wavelength / (2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

/// Fast channels stay, slow ones are stretched by `factor`, a ramp over channels between.
void stretch_yarn(const RopeSpec& rope, std::vector<double>& frequencies) {
  double first = yarn_channel(rope, rope.beta_fast);
  double last = yarn_channel(rope, rope.beta_slow);
  if (rope.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, static_cast<double>(rope.rotated - 1));
  if (first == last) last += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched =
        std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    frequencies[i] *= stretched / rope.factor + 1.0 - stretched;
  }
}

}  // namespace

int64_t rope_switch(const ModelSpec& spec) noexcept {
  for (const RopeSpec& rope : spec.ropes) {
    if (rope.type == RopeType::kLongRope) return rope.original_positions;
  }
  return 0;
}

std::vector<double> rope_frequencies(const RopeSpec& rope, int64_t length) {
  const int64_t half = rope.rotated / 2;
  const auto rotated = static_cast<double>(rope.rotated);
  double theta = rope.theta;
  if (rope.type == RopeType::kDynamic && length > rope.original_positions) {
    // NTK: the base grows so that the longest wavelength spans the present length.
    const double ratio = static_cast<double>(length) / static_cast<double>(rope.original_positions);
    theta *= std::pow(rope.factor * ratio - rope.factor + 1.0, rotated / (rotated - 2.0));
  }
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    double f = std::pow(theta, -2.0 * static_cast<double>(i) / rotated);
    if (rope.type == RopeType::kLinear) f /= rope.factor;
    if (rope.type == RopeType::kLlama3) {
      // Short wavelengths stay, long ones are stretched by `factor`, a ramp between.
      const double wavelength = 2.0 * std::numbers::pi / f;
      const double turns = static_cast<double>(rope.original_positions) / wavelength;
      const double keep = std::clamp(
          (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0,
          1.0);
      f *= keep + (1.0 - keep) / rope.factor;
    }
    if (rope.type == RopeType::kLongRope) {
      const bool beyond = length > rope.original_positions;
      f /= (beyond ? rope.long_factors : rope.short_factors)[static_cast<std::size_t>(i)];
    }
    if (rope.type == RopeType::kProportional) f = i < rope.turning ? f / rope.factor : 0.0;
    frequencies[static_cast<std::size_t>(i)] = f;
  }
  if (rope.type == RopeType::kYarn) stretch_yarn(rope, frequencies);
  return frequencies;
}

RopeTable::RopeTable(const RopeSpec& rope, int64_t begin, int64_t count)
    : half(rope.rotated / 2), interleaved(rope.interleaved) {
  const std::vector<double> frequencies = rope_frequencies(rope, begin + count);
  cos.resize(static_cast<std::size_t>(count * half));
  sin.resize(cos.size());
  const bool beyond = begin + count > rope.original_positions;
  const double magnitude =
      beyond && rope.long_magnitude != 0.0 ? rope.long_magnitude : rope.magnitude;
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(begin + p) * frequencies[static_cast<std::size_t>(i)];
      cos[static_cast<std::size_t>(p * half + i)] = static_cast<float>(magnitude * std::cos(angle));
      sin[static_cast<std::size_t>(p * half + i)] = static_cast<float>(magnitude * std::sin(angle));
    }
  }
}

}  // namespace jang
