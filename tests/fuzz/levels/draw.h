// Shapes and values drawn from a fuzzer's input, and what is said of levels that disagree.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <span>
#include <vector>

#include "kernels/kernel_table.h"

namespace jang::kernels::fuzz {

/// The input's bytes in order; behind their end numbers that follow from all of them, so that a few
/// bytes are enough for a whole matrix.
class Draw {
 public:
  explicit Draw(std::span<const uint8_t> bytes) : bytes_(bytes) {
    uint32_t hash = 2166136261u;
    for (const uint8_t byte : bytes) hash = (hash ^ byte) * 16777619u;
    random_.seed(hash);
  }

  uint32_t word() {
    uint32_t value = 0;
    if (bytes_.size() < sizeof value) return static_cast<uint32_t>(random_());
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  int64_t between(int64_t least, int64_t most) {
    return least + byte_or_random() % (most - least + 1);
  }
  bool coin() { return between(0, 1) != 0; }
  template <typename T, std::size_t N>
  T pick(const T (&from)[N]) {
    return from[static_cast<std::size_t>(between(0, N - 1))];
  }
  /// Of magnitude 2^least to 2^(most + 1), or zero.
  float value(int least, int most) {
    const uint32_t bits = word();
    if (bits % 31 == 0) return (bits & 0x80000000u) != 0 ? -0.0f : 0.0f;
    const int exponent = least + static_cast<int>(bits >> 23 & 255) % (most - least + 1);
    if (exponent >= -126)
      return std::bit_cast<float>((bits & 0x807fffffu) | static_cast<uint32_t>(exponent + 127)
                                                             << 23);
    return std::ldexp(std::bit_cast<float>((bits & 0x807fffffu) | 0x3f800000u), exponent);
  }
  /// Any bit pattern: infinities, NaN and denormals among them.
  float any() { return std::bit_cast<float>(word()); }
  float finite() {
    const float value = any();
    return std::isfinite(value) ? value : 1.0f;
  }
  /// Magnitudes all over the range, in a narrow band of it, of one value, or mostly zeros.
  std::vector<float> values(std::size_t n, int least, int most) {
    const int64_t kind = between(0, 3);
    const int band = kind == 1 ? static_cast<int>(between(least, most)) : 0;
    const float same = value(least, most);
    std::vector<float> out(n);
    for (float& v : out) {
      v = kind == 1 ? value(band, band) : value(least, most);
      if (kind == 2) v = same;
      if (kind == 3 && word() % 4 != 0) v = 0.0f;
    }
    return out;
  }

 private:
  int64_t byte_or_random() {
    if (bytes_.empty()) return static_cast<int64_t>(random_());
    const uint8_t byte = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return byte;
  }

  std::span<const uint8_t> bytes_;
  std::mt19937 random_;
};

[[noreturn]] inline void disagree(const KernelTable& table, const char* what, std::size_t place,
                                  double found, double expected, double bound) {
  std::fprintf(stderr, "%s, %s: at %zu expected %.9g within %.3g, found %.9g\n",
               level_name(table.level), what, place, expected, bound, found);
  std::abort();
}

/// Within the bound, or neither is a number.
inline void require_near(const KernelTable& table, const char* what, std::size_t place,
                         double found, double expected, double bound) {
  if (std::isnan(found) && std::isnan(expected)) return;
  if (!(found == expected || std::fabs(found - expected) <= bound))
    disagree(table, what, place, found, expected, bound);
}

/// The same bits; of NaN only that both are.
inline void require_same(const KernelTable& table, const char* what, std::span<const float> found,
                         std::span<const float> expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(found[i]) && std::isnan(expected[i])) continue;
    if (std::memcmp(&found[i], &expected[i], sizeof(float)) != 0)
      disagree(table, what, i, found[i], expected[i], 0.0);
  }
}

template <typename T>
void require_equal(const KernelTable& table, const char* what, std::span<const T> found,
                   std::span<const T> expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (found[i] != expected[i])
      disagree(table, what, i, static_cast<double>(found[i]), static_cast<double>(expected[i]),
               0.0);
  }
}

inline std::size_t area(int64_t a, int64_t b) { return static_cast<std::size_t>(a * b); }

inline constexpr int kBits[] = {2, 3, 4, 5, 6, 8};
inline constexpr int kGroups[] = {32, 64, 128};
inline constexpr FloatType kTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};

/// A check draws a case and holds `table` against the reference on it.
using Check = void (*)(const KernelTable& table, const KernelTable& reference, Draw& draw);

void check_affine(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_dense(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_int8(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_activations(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_quantizers(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_packing(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_conversions(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_norms(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_elements(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_gates(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_rope(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_vocabulary(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_cache(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_attention(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_products(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_convolution(const KernelTable& table, const KernelTable& reference, Draw& draw);
void check_scan(const KernelTable& table, const KernelTable& reference, Draw& draw);

}  // namespace jang::kernels::fuzz
