// Estimates of memory and disk from sizes that a file may have chosen: sums and products that stop
// at the largest number instead of wrapping.
#pragma once

#include <compare>
#include <concepts>
#include <cstdint>

#include "base/checked_math.h"

namespace jang {

class ByteCount {
 public:
  constexpr ByteCount() noexcept = default;
  /// Negative numbers, which no size is, count as 0.
  template <std::integral Number>
  constexpr ByteCount(Number value) noexcept  // NOLINT(google-explicit-constructor): it is one
      : value_(value > 0 ? static_cast<uint64_t>(value) : 0) {}

  constexpr uint64_t value() const noexcept { return value_; }
  constexpr auto operator<=>(const ByteCount&) const noexcept = default;

  friend constexpr ByteCount operator+(ByteCount a, ByteCount b) noexcept {
    return checked_add(a.value_, b.value_).value_or(UINT64_MAX);
  }
  friend constexpr ByteCount operator*(ByteCount a, ByteCount b) noexcept {
    return checked_mul(a.value_, b.value_).value_or(UINT64_MAX);
  }
  constexpr ByteCount& operator+=(ByteCount other) noexcept { return *this = *this + other; }

 private:
  uint64_t value_ = 0;
};

}  // namespace jang
