#include "calibrate/column_weights.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr float kFloor = 1e-4f;        // of the median of the positive values
constexpr double kLayerTokens = 32.0;  // that an expert borrows from its layer
constexpr std::size_t kNamesShown = 3;

/// sum / count of each expert with `kLayerTokens` of the layer's mean among its tokens.
void expert_means(const LinearSums& sums, const LinearShape& shape, std::vector<float>& out) {
  std::vector<double> mean(shape.columns);
  double tokens = 0.0;
  for (uint64_t e = 0; e < shape.experts; ++e) {
    tokens += static_cast<double>(sums.count[e]);
    for (uint64_t j = 0; j < shape.columns; ++j) mean[j] += sums.sum_x2[e * shape.columns + j];
  }
  for (double& value : mean) value /= std::max(tokens, 1.0);
  for (uint64_t e = 0; e < shape.experts; ++e) {
    const double all = static_cast<double>(sums.count[e]) + kLayerTokens;
    for (uint64_t j = 0; j < shape.columns; ++j) {
      const double sum = sums.sum_x2[e * shape.columns + j] + kLayerTokens * mean[j];
      out.push_back(static_cast<float>(sum / all));
    }
  }
}

std::string some_of(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesShown); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > kNamesShown ? text + ", ..." : text;
}

/// One matrix's own values. False if all are zero.
bool floor_values(std::span<float> values) {
  std::vector<float> positive;
  std::copy_if(values.begin(), values.end(), std::back_inserter(positive),
               [](float v) { return v > 0.0f; });
  if (positive.empty()) return false;
  const auto middle = positive.begin() + static_cast<std::ptrdiff_t>(positive.size() / 2);
  std::nth_element(positive.begin(), middle, positive.end());
  // A median at the lower end of the floats has no floor below it that is above zero.
  const float floor = std::max(kFloor * *middle, std::numeric_limits<float>::min());
  for (float& v : values) v = std::max(v, floor);
  return true;
}

void add_mean(std::span<float> values) {
  double mean = 0.0;
  for (const float v : values) mean += static_cast<double>(v);
  mean /= static_cast<double>(values.size());
  for (float& v : values) v += static_cast<float>(mean);
}

std::vector<uint64_t> shape_for(const FinalTensor& tensor) {
  return tensor.shape.size() == 3 ? std::vector{tensor.shape[0], tensor.shape[2]}
                                  : std::vector{tensor.columns()};
}

/// Floors the values of every expert; those without data get 1. False if nothing is known at all.
bool prepare(const FinalTensor& tensor, bool tied_head, MeanSquares& weights,
             const std::string& file) {
  const auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kArgument, file, tensor.path, message);
  };
  const std::vector<uint64_t> expected = shape_for(tensor);
  if (weights.shape != expected) {
    fail("expected importance of shape " + shape_text(expected) + ", found " +
         shape_text(weights.shape));
  }
  for (const float v : weights.values) {
    if (!(v >= 0.0f && std::isfinite(v))) {
      fail("expected importance of finite numbers >= 0, found " + std::to_string(v));
    }
  }
  const uint64_t columns = tensor.columns();
  bool known = false;
  for (uint64_t begin = 0; begin < weights.values.size(); begin += columns) {
    const std::span<float> block(weights.values.data() + begin, columns);
    if (floor_values(block)) {
      known = true;
    } else {
      std::fill(block.begin(), block.end(), 1.0f);
    }
    if (tied_head) add_mean(block);
  }
  return known;
}

}  // namespace

MeanSquaresByPath mean_squares(const StatisticsFile& file) {
  MeanSquaresByPath out;
  for (const auto& [path, shape] : file.linears()) {
    const LinearSums sums = file.sums(path);
    MeanSquares& weights = out[path];
    weights.values.reserve(sums.sum_x2.size());
    if (shape.experts > 0) {
      weights.shape = {shape.experts, shape.columns};
      expert_means(sums, shape, weights.values);
      continue;
    }
    weights.shape = {shape.columns};
    const double count = std::max(static_cast<double>(sums.count.front()), 1.0);
    for (const double sum : sums.sum_x2) weights.values.push_back(static_cast<float>(sum / count));
  }
  return out;
}

ColumnWeights::ColumnWeights(MeanSquaresByPath values, const Inventory& inventory,
                             const std::string& file, std::vector<std::string>& warnings) {
  std::vector<std::string> missing, unknown;
  bool met = false;
  for (const FinalTensor& tensor : inventory.tensors) {
    if (!tensor.packable) continue;
    const bool embedding = tensor.role.role == Role::kEmbedding;
    const auto found = values.find(tensor.path);
    if (found == values.end()) {
      const bool needs = tensor.role.role != Role::kRouter && (!embedding || inventory.tied_head);
      if (needs) missing.push_back(tensor.path);
      continue;
    }
    met = true;
    auto node = values.extract(found);
    if (embedding && !inventory.tied_head) continue;
    if (prepare(tensor, embedding, node.mapped(), file)) {
      values_.insert(std::move(node));
    } else {
      missing.push_back(tensor.path);
    }
  }
  for (const auto& [path, rest] : values) unknown.push_back(path);
  if (!met) {
    throw Error(ErrorCode::kArgument, file, {},
                "expected importance of this model's matrices, found " +
                    (unknown.empty() ? "none" : "that of " + some_of(unknown)));
  }
  if (!missing.empty()) {
    warnings.push_back(file + ": no importance of " + std::to_string(missing.size()) +
                       " matrices (" + some_of(missing) + "); all their columns count alike");
  }
  if (!unknown.empty()) {
    warnings.push_back(file + ": " + std::to_string(unknown.size()) +
                       " names are no matrix of the model (" + some_of(unknown) + ")");
  }
}

uint64_t ColumnWeights::block_rows(const FinalTensor& tensor) noexcept {
  return tensor.shape.size() < 2 ? 1 : tensor.shape[tensor.shape.size() - 2];
}

std::span<const float> ColumnWeights::of(const FinalTensor& tensor, uint64_t row) const {
  const auto found = values_.find(tensor.path);
  if (found == values_.end()) return {};
  const uint64_t columns = tensor.columns();
  const uint64_t block = tensor.shape.size() == 3 ? row / block_rows(tensor) : 0;
  return {found->second.values.data() + block * columns, columns};
}

}  // namespace jang
