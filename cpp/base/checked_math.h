// Arithmetic on sizes that come from files. Every product or sum of such numbers goes through here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace jang {

constexpr std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) noexcept {
  uint64_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

constexpr std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) noexcept {
  uint64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

/// Product of all factors; an overflow in any prefix is an overflow, also when a later factor is
/// zero.
constexpr std::optional<uint64_t> checked_product(std::span<const uint64_t> factors) noexcept {
  uint64_t r = 1;
  for (const uint64_t f : factors) {
    if (__builtin_mul_overflow(r, f, &r)) return std::nullopt;
  }
  return r;
}

}  // namespace jang
