// Element types of safetensors and what the core can compute with.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace jang {

/// Types that a tensor of ours may have. The other types of safetensors are recognised by name and
/// refused by name (`kUnusableDtype`).
enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,  // codes of weights, whose scales lie beside them (arch/block_scales.h)
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64
};

/// Bytes of one element.
int dtype_size(DType t) noexcept;
/// Spelling of safetensors: "BF16".
std::string_view dtype_name(DType t) noexcept;
std::optional<DType> parse_dtype(std::string_view name) noexcept;
/// Bits of an element of any type that safetensors 0.8 knows, 0 for an unknown name.
int safetensors_bits(std::string_view name) noexcept;

/// F32, F16 and BF16: the types that weights, scales and biases may have.
constexpr bool is_float_weight(DType t) noexcept {
  return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16;
}

}  // namespace jang
