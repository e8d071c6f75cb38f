// Element loops over unaligned source bytes: every load goes through memcpy, which compilers turn
// into plain (vector) loads.
#include "convert/values.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/float16.h"

namespace jang {
namespace {

constexpr uint64_t kBlock = 4096;  // elements looked at before asking whether one was bad

template <typename Word>
Word load(const std::byte* data, uint64_t index) {
  Word word;
  std::memcpy(&word, data + index * sizeof(Word), sizeof(Word));
  return word;
}

float value_at(const SourcePanel& panel, uint64_t index) {
  switch (panel.dtype) {
    case DType::kF16:
      return half_to_float(load<uint16_t>(panel.data, index));
    case DType::kBF16:
      return bf16_to_float(load<uint16_t>(panel.data, index));
    default:
      return std::bit_cast<float>(load<uint32_t>(panel.data, index));
  }
}

PanelPlace place_of(const SourcePanel& panel, uint64_t index) {
  return {index / panel.columns, index % panel.columns, value_at(panel, index)};
}

/// Index of the first word whose bits under `exponent` are all set, or `count`.
template <typename Word>
uint64_t first_special(const std::byte* data, uint64_t count, Word exponent) {
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t end = begin + kBlock < count ? begin + kBlock : count;
    Word bad = 0;
    for (uint64_t i = begin; i < end; ++i) {
      bad = static_cast<Word>(bad | ((load<Word>(data, i) & exponent) == exponent ? 1 : 0));
    }
    if (bad == 0) continue;
    for (uint64_t i = begin; i < end; ++i) {
      if ((load<Word>(data, i) & exponent) == exponent) return i;
    }
  }
  return count;
}

}  // namespace

std::optional<PanelPlace> find_non_finite(const SourcePanel& panel) {
  const uint64_t count = panel.rows * panel.columns;
  uint64_t found = count;
  switch (panel.dtype) {
    case DType::kF16:
      found = first_special<uint16_t>(panel.data, count, 0x7c00u);
      break;
    case DType::kBF16:
      found = first_special<uint16_t>(panel.data, count, 0x7f80u);
      break;
    case DType::kF32:
      found = first_special<uint32_t>(panel.data, count, 0x7f800000u);
      break;
    case DType::kF64: {
      for (found = 0; found < count; ++found) {
        const auto value = std::bit_cast<double>(load<uint64_t>(panel.data, found));
        if (std::isfinite(value)) continue;
        return PanelPlace{found / panel.columns, found % panel.columns, static_cast<float>(value)};
      }
      return std::nullopt;
    }
    default:
      return std::nullopt;
  }
  if (found == count) return std::nullopt;
  return place_of(panel, found);
}

std::optional<PanelPlace> cast_panel(const SourcePanel& panel, DType to, std::byte* out) {
  JANG_ASSERT(is_float_weight(panel.dtype) && is_float_weight(to));
  const uint64_t count = panel.rows * panel.columns;
  std::optional<PanelPlace> overflow;
  const auto check = [&](uint64_t index, bool infinite) {
    if (infinite && !overflow && std::isfinite(value_at(panel, index))) {
      overflow = place_of(panel, index);
    }
  };
  switch (to) {
    case DType::kF16:
      for (uint64_t i = 0; i < count; ++i) {
        const uint16_t half = float_to_half(value_at(panel, i));
        std::memcpy(out + i * sizeof half, &half, sizeof half);
        check(i, (half & 0x7fffu) == 0x7c00u);
      }
      break;
    case DType::kBF16:
      for (uint64_t i = 0; i < count; ++i) {
        const uint16_t brain = float_to_bf16(value_at(panel, i));
        std::memcpy(out + i * sizeof brain, &brain, sizeof brain);
        check(i, (brain & 0x7fffu) == 0x7f80u);
      }
      break;
    default:
      for (uint64_t i = 0; i < count; ++i) {
        const float value = value_at(panel, i);
        std::memcpy(out + i * sizeof value, &value, sizeof value);
      }
      break;
  }
  return overflow;
}

void shift_panel(const SourcePanel& panel, float shift, std::byte* out) {
  JANG_ASSERT(is_float_weight(panel.dtype));
  const uint64_t count = panel.rows * panel.columns;
  for (uint64_t i = 0; i < count; ++i) {
    const float value = value_at(panel, i) + shift;
    if (panel.dtype == DType::kF32) {
      std::memcpy(out + i * sizeof value, &value, sizeof value);
      continue;
    }
    const uint16_t word = panel.dtype == DType::kF16 ? float_to_half(value) : float_to_bf16(value);
    std::memcpy(out + i * sizeof word, &word, sizeof word);
  }
}

}  // namespace jang
