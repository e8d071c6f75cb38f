#include "arch/folded_factors.h"

#include <algorithm>
#include <cstring>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/inventory.h"
#include "base/error.h"
#include "base/float16.h"

namespace jang {
namespace {

/// values[i] *= factor, `count` numbers of that dtype.
void multiply(DType dtype, float factor, uint64_t count, std::byte* values) {
  if (factor == 1.0f) return;
  if (dtype == DType::kF32) {
    for (uint64_t i = 0; i < count; ++i) {
      float value = 0;
      std::memcpy(&value, values + i * sizeof value, sizeof value);
      value *= factor;
      std::memcpy(values + i * sizeof value, &value, sizeof value);
    }
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    uint16_t word = 0;
    std::memcpy(&word, values + i * sizeof word, sizeof word);
    word = dtype == DType::kF16 ? float_to_half(half_to_float(word) * factor)
                                : float_to_bf16(bf16_to_float(word) * factor);
    std::memcpy(values + i * sizeof word, &word, sizeof word);
  }
}

/// Calls visit(begin, end, factor) for the parts of [begin, end) that have a factor.
template <typename Visit>
void for_each_factor(const std::vector<RowFactor>& factors, uint64_t begin, uint64_t end,
                     Visit&& visit) {
  for (const RowFactor& part : factors) {
    const uint64_t from = std::max(part.begin, begin), to = std::min(part.end, end);
    if (from < to) visit(from, to, part.factor);
  }
}

}  // namespace

TensorFactors factors_of(const ModelConfig& config) {
  const Family* family = find_family(config.model_type());
  if (family == nullptr || family->factors == nullptr) return {};
  TensorFactors all = family->factors(config);
  for (auto& [name, factors] : all)
    std::erase_if(factors, [](const RowFactor& part) { return part.factor == 1.0f; });
  std::erase_if(all, [](const auto& entry) { return entry.second.empty(); });
  return all;
}

std::vector<float> factor_of_rows(const std::vector<RowFactor>& factors, int64_t rows) {
  std::vector<float> out(static_cast<std::size_t>(rows), 1.0f);
  for_each_factor(factors, 0, out.size(), [&](uint64_t begin, uint64_t end, float factor) {
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(begin),
              out.begin() + static_cast<std::ptrdiff_t>(end), factor);
  });
  return out;
}

void multiply_by_factors(const FinalTensor& tensor, uint64_t row, uint64_t rows, uint64_t column,
                         uint64_t columns, std::byte* values) {
  const auto size = static_cast<uint64_t>(dtype_size(tensor.dtype));
  const bool vector = tensor.shape.size() == 1;
  const uint64_t first = vector ? column : row, count = vector ? columns : rows;
  const uint64_t width = vector ? 1 : columns;
  for_each_factor(tensor.factors, first, first + count,
                  [&](uint64_t begin, uint64_t end, float factor) {
                    multiply(tensor.dtype, factor, (end - begin) * width,
                             values + (begin - first) * width * size);
                  });
}

}  // namespace jang
