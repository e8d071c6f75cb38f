// The two tables of element types: those that a tensor of ours may have, and every name that
// safetensors 0.8 defines.
#include "base/dtype.h"

#include <array>
#include <utility>

namespace jang {
namespace {

struct Row {
  DType type;
  std::string_view name;
  int bytes;
};

// In the order of the enumerators, so that a type indexes its row.
constexpr std::array kRows{
    Row{DType::kBool, "BOOL", 1},      Row{DType::kU8, "U8", 1},     Row{DType::kI8, "I8", 1},
    Row{DType::kF8E4M3, "F8_E4M3", 1}, Row{DType::kU16, "U16", 2},   Row{DType::kI16, "I16", 2},
    Row{DType::kF16, "F16", 2},        Row{DType::kBF16, "BF16", 2}, Row{DType::kU32, "U32", 4},
    Row{DType::kI32, "I32", 4},        Row{DType::kF32, "F32", 4},   Row{DType::kU64, "U64", 8},
    Row{DType::kI64, "I64", 8},        Row{DType::kF64, "F64", 8},
};

constexpr bool rows_in_order() {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<std::size_t>(kRows[i].type) != i) return false;
  }
  return true;
}
static_assert(rows_in_order());

constexpr std::array<std::pair<std::string_view, int>, 8> kUnusable{{{"F4", 4},
                                                                     {"F6_E2M3", 6},
                                                                     {"F6_E3M2", 6},
                                                                     {"F8_E5M2", 8},
                                                                     {"F8_E8M0", 8},
                                                                     {"F8_E4M3FNUZ", 8},
                                                                     {"F8_E5M2FNUZ", 8},
                                                                     {"C64", 64}}};

const Row& row(DType t) noexcept { return kRows[static_cast<std::size_t>(t)]; }

}  // namespace

int dtype_size(DType t) noexcept { return row(t).bytes; }

std::string_view dtype_name(DType t) noexcept { return row(t).name; }

std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (const Row& r : kRows) {
    if (r.name == name) return r.type;
  }
  return std::nullopt;
}

int safetensors_bits(std::string_view name) noexcept {
  for (const Row& r : kRows) {
    if (r.name == name) return 8 * r.bytes;
  }
  for (const auto& [unusable, bits] : kUnusable) {
    if (unusable == name) return bits;
  }
  return 0;
}

}  // namespace jang
