// How much each input of a linear layer counts, for the search of grids and for losses: values by
// module path, checked against the model that they are for. Where they come from (statistics of
// our own, importance matrices of others) is another matter.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/inventory.h"
#include "calibrate/statistics_file.h"

namespace jang {

/// Mean squares of the inputs of one module, [columns] or [experts, columns]; any scale, since only
/// the ratios within a matrix count.
struct MeanSquares {
  std::vector<uint64_t> shape;
  std::vector<float> values;
};
using MeanSquaresByPath = std::map<std::string, MeanSquares, std::less<>>;

/// Of a statistics file: sum_x2 / count. An expert that few tokens chose leans on its layer, as if
/// 32 tokens of the layer's mean had come to it, too.
MeanSquaresByPath mean_squares(const StatisticsFile& file);

class ColumnWeights {
 public:
  /// Of the matrices that the inventory calls packable. Values are floored at 1e-4 of the median
  /// of the positive ones of their matrix, so that no column is free; a matrix whose values are all
  /// 0 has none. An embedding is looked up, not multiplied: it has none, and a tied one, which is
  /// the head as well, gets the mean on top of each. Adds a warning for matrices that `values` lack
  /// and for names of `values` that are no matrix. Error{kArgument} naming `file` and the module
  /// for values that are not finite numbers >= 0 or do not fit, and if no name is a matrix.
  ColumnWeights(MeanSquaresByPath values, const Inventory& inventory, const std::string& file,
                std::vector<std::string>& warnings);

  /// Rows of `tensor` that share one set of weights: of a stack those of an expert.
  static uint64_t block_rows(const FinalTensor& tensor) noexcept;
  /// Of the inputs of row `row`, [columns], all above zero; empty where nothing is known: all 1.
  std::span<const float> of(const FinalTensor& tensor, uint64_t row) const;
  /// Matrices that have weights.
  uint64_t size() const noexcept { return values_.size(); }

 private:
  MeanSquaresByPath values_;
};

}  // namespace jang
