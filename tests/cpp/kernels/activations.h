// Rounded activations in guarded memory, and the error that an integer product with them may have.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "affine_matrix.h"
#include "guarded.h"
#include "kernels/kernel_table.h"

namespace jang::kernels {

#include "kernels/generic/activation_position.inl"

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// Activations of `tokens` rows in guarded memory, poisoned before they are written.
struct Activations {
  GuardedBytes codes;
  GuardedFloats scales, sums, residuals;
  Int8Activations view{};

  Activations(int64_t tokens, int64_t columns, int group)
      : codes(static_cast<std::size_t>(tokens * round_up(columns, kActivationBlock))),
        scales(static_cast<std::size_t>(tokens * round_up(columns / group, kGroupBlock))),
        sums(static_cast<std::size_t>(tokens * round_up(columns / group, kGroupBlock))),
        residuals(static_cast<std::size_t>(tokens * round_up(columns / group, kGroupBlock))) {
    view = {reinterpret_cast<int8_t*>(codes.data()),
            scales.data(),
            sums.data(),
            residuals.data(),
            round_up(columns, kActivationBlock),
            round_up(columns / group, kGroupBlock)};
    std::fill_n(view.codes, tokens * view.code_stride, int8_t{99});
    std::fill_n(view.scales, tokens * view.group_stride, std::nanf(""));
    std::fill_n(view.sums, tokens * view.group_stride, std::nanf(""));
    std::fill_n(view.residuals, tokens * view.group_stride, std::nanf(""));
  }
};

/// The float part of a row: a group's two products, and their way through a sum of groups. Lanes
/// may hold partial dot products, which are integers below 2^24. `x`: in natural order.
inline double int8_bound(const KernelTable& reference, const AffineMatrix& m, int64_t row,
                         const Int8Activations& x, int64_t token) {
  const int64_t groups = m.columns / m.group;
  std::vector<float> s(static_cast<std::size_t>(groups)), z(s.size());
  const auto at = static_cast<std::size_t>(row * groups) * float_bytes(m.metadata);
  reference.to_float(m.scales + at, m.metadata, groups, s.data());
  reference.to_float(m.biases + at, m.metadata, groups, z.data());
  std::vector<uint8_t> codes(static_cast<std::size_t>(m.columns));
  reference.unpack(m.codes + row * m.columns / 8 * m.bits, m.columns, m.bits, codes.data());
  double magnitude = 0.0;
  for (int64_t g = 0; g < groups; ++g) {
    double dot = 0.0;
    for (int64_t c = g * m.group; c < (g + 1) * m.group; ++c) {
      dot += std::fabs(static_cast<double>(codes[static_cast<std::size_t>(c)]) *
                       x.codes[token * x.code_stride + c]);
    }
    const auto i = static_cast<std::size_t>(g);
    magnitude += std::fabs(static_cast<double>(s[i]) * x.scales[token * x.group_stride + g]) * dot +
                 // The sum of a group's floats and its residual have roundings of their own.
                 (std::fabs(static_cast<double>(z[i])) +
                  std::fabs(static_cast<double>(s[i])) * (1 << m.bits)) *
                     3.0 * x.scales[token * x.group_stride + g] * 127.0 * m.group;
  }
  return (6.0 + static_cast<double>(groups)) * kRounding * magnitude;
}

}  // namespace jang::kernels
