#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace jang {

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
    frequencies[static_cast<std::size_t>(i)] = f;
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeSpec& rope, int64_t begin, int64_t count)
    : half(rope.rotated / 2), interleaved(rope.interleaved) {
  const std::vector<double> frequencies = rope_frequencies(rope, begin + count);
  cos.resize(static_cast<std::size_t>(count * half));
  sin.resize(cos.size());
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(begin + p) * frequencies[static_cast<std::size_t>(i)];
      cos[static_cast<std::size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
      sin[static_cast<std::size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace jang
