// Factors that a model type's own checkpoints state in the config and that written models hold in
// their weights (falcon_h1's multipliers): what they are, where they apply, and how.
//
// A spec always describes the written form. A source in the other form is read through these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace jang {

class ModelConfig;
struct FinalTensor;

/// Of rows [begin, end) of a matrix, of the numbers [begin, end) of a vector.
struct RowFactor {
  uint64_t begin = 0, end = 0;
  float factor = 1.0f;
};
/// By final name; the rest has the factor 1.
using TensorFactors = std::map<std::string, std::vector<RowFactor>, std::less<>>;

/// Of this name in config.json: a written model holds the factors in its weights.
inline constexpr std::string_view kFactorsFoldedKey = "jang_mup_folded";

/// Of a model type's own checkpoints; empty for a type without any. Factors of 1 are left out.
TensorFactors factors_of(const ModelConfig& config);

/// The factor of each of `rows` rows.
std::vector<float> factor_of_rows(const std::vector<RowFactor>& factors, int64_t rows);

/// Multiplies columns [column, column + columns) of rows [row, row + rows) of a tensor, gathered at
/// `values` in its dtype, by its factors; products are rounded to nearest even.
void multiply_by_factors(const FinalTensor& tensor, uint64_t row, uint64_t rows, uint64_t column,
                         uint64_t columns, std::byte* values);

}  // namespace jang
