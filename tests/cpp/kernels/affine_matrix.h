// Random packed matrices in guarded memory, and the error that a product with them may have.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "guarded.h"
#include "kernels/kernel_table.h"
#include "random_data.h"

namespace jang::kernels {

inline std::size_t float_bytes(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }
inline const char* float_name(FloatType type) {
  return type == FloatType::kF32 ? "f32" : type == FloatType::kF16 ? "f16" : "bf16";
}

/// `values` as bytes of `type`, in guarded memory.
inline std::unique_ptr<GuardedBytes> stored_floats(const KernelTable& reference,
                                                   const std::vector<float>& values, FloatType type,
                                                   Guard guard = Guard::kAfter,
                                                   std::size_t offset = 0) {
  auto bytes = std::make_unique<GuardedBytes>(values.size() * float_bytes(type), guard, offset);
  reference.from_float(values.data(), type, static_cast<int64_t>(values.size()), bytes->data());
  return bytes;
}

struct RandomAffine {
  std::unique_ptr<GuardedBytes> codes, scales, biases;
  AffineMatrix matrix{};

  RandomAffine(const KernelTable& reference, int64_t rows, int64_t columns, int bits, int group,
               FloatType type, uint32_t seed, Guard guard = Guard::kAfter, std::size_t offset = 0) {
    const auto code_bytes = static_cast<std::size_t>(rows * columns / 8 * bits);
    codes = std::make_unique<GuardedBytes>(code_bytes, guard, offset);
    std::mt19937 random(seed);
    for (std::size_t i = 0; i < code_bytes; ++i) codes->data()[i] = static_cast<uint8_t>(random());
    // Negative scales in about half of the groups, a few zeros.
    const auto groups = static_cast<std::size_t>(rows * columns / group);
    std::vector<float> s = normal_floats(groups, seed + 1, 1.0f / static_cast<float>(1 << bits));
    std::vector<float> z = normal_floats(groups, seed + 2, 0.5f);
    for (std::size_t i = 0; i < groups; i += 11) s[i] = 0.0f;
    scales = stored_floats(reference, s, type, guard, offset);
    biases = stored_floats(reference, z, type, guard, offset);
    matrix = {codes->data(), scales->data(), biases->data(), rows, columns, bits, group, type};
  }
};

/// Roundings that one product goes through on its way into the result, at most: two for the weight,
/// one for the product, then its chain (at least 16 chains take part: 4 of at least 4 lanes), the
/// joining of chains and lanes, one addition per panel of 1024 columns, and one of the reference.
inline double roundings(int64_t columns) {
  const double panel = static_cast<double>(columns < 1024 ? columns : 1024);
  const double panels = std::ceil(static_cast<double>(columns) / 1024.0);
  return 3.0 + std::ceil(panel / 16.0) + 2.0 + 4.0 + panels + 1.0;
}

/// As roundings(), of plain weights. Tiles of bf16 have an order of their own
/// (x86_amx/linear_bf16.inl), at any number of tokens.
inline double dense_roundings(Level level, FloatType type, int64_t columns) {
  const bool tiles = level == Level::kAmx && type == FloatType::kBF16;
  return tiles ? 41.0 + std::ceil(static_cast<double>(columns) / 256.0) : roundings(columns);
}

/// Bound of |y - exact| for y = sum w x, from the magnitudes that were added: sum |x| (|s q| +
/// |z|).
inline double product_bound(const KernelTable& reference, const AffineMatrix& w, int64_t row,
                            const float* x) {
  std::vector<float> weights(static_cast<std::size_t>(w.columns));
  std::vector<float> z(static_cast<std::size_t>(w.columns / w.group));
  reference.affine_row(w, row, weights.data());
  reference.to_float(
      w.biases + static_cast<std::size_t>(row * (w.columns / w.group)) * float_bytes(w.metadata),
      w.metadata, w.columns / w.group, z.data());
  double magnitude = 0.0;
  for (int64_t c = 0; c < w.columns; ++c) {
    const double bias = z[static_cast<std::size_t>(c / w.group)];
    const double weight = weights[static_cast<std::size_t>(c)];
    magnitude += std::fabs(x[c]) * (std::fabs(weight - bias) + std::fabs(bias));
  }
  return roundings(w.columns) * kRounding * magnitude;
}

}  // namespace jang::kernels
