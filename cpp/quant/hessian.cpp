// Accumulates second moments tile by tile of the outputs, so that threads share nothing and the
// order of every sum is that of the tokens.
#include "quant/hessian.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/large_pages.h"
#include "quant/active_kernels.h"
#include "quant/products.h"

namespace jang {
namespace {

// Tokens whose products are summed in float32.
constexpr int64_t kRun = 512;
constexpr int64_t kTile = kernels::kProductTile;

struct Tile {
  int64_t row, column;
};

AlignedBuffer<double> zeros(int64_t rows, int64_t columns) {
  const std::array factors = {static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                              static_cast<uint64_t>(sizeof(double))};
  const auto bytes = checked_product(factors);
  if (rows < 1 || columns < 1 || !bytes) {
    throw Error(ErrorCode::kArgument,
                "second moments of " + std::to_string(rows) + " inputs do not fit memory");
  }
  auto values = large_page_buffer<double>(static_cast<std::size_t>(*bytes) / sizeof(double));
  std::fill(values.span().begin(), values.span().end(), 0.0);
  return values;
}

double total_weight(int64_t tokens, std::span<const float> weights) {
  if (weights.empty()) return static_cast<double>(tokens);
  double sum = 0.0;
  for (const float w : weights) sum += static_cast<double>(w);
  return sum;
}

// sums(i, j) += sum over tokens of r_t * left(t, i) * right(t, j), for the tiles given.
void add_tiles(const float* left, const float* right, int64_t stride, int64_t tokens,
               std::span<const float> weights, int64_t columns, const std::vector<Tile>& tiles,
               double* sums, ThreadPool& pool) {
  const kernels::KernelTable& table = active_kernels();
  struct Scratch {
    AlignedBuffer<float> product = product_scratch<float>();
    AlignedBuffer<float> tile{static_cast<std::size_t>(kTile * kTile)};
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(pool.size()));
  const auto count = static_cast<int64_t>(tiles.size());
  pool.share(count, 1, [&](int64_t begin, int64_t end, int worker) {
    Scratch& own = scratch[static_cast<std::size_t>(worker)];
    for (int64_t index = begin; index < end; ++index) {
      const Tile& tile = tiles[static_cast<std::size_t>(index)];
      const int64_t rows = std::min(kTile, columns - tile.row);
      const int64_t width = std::min(kTile, columns - tile.column);
      for (int64_t first = 0; first < tokens; first += kRun) {
        std::fill(own.tile.span().begin(), own.tile.span().end(), 0.0f);
        table.product_f32({.a = left + first * stride + tile.row,
                           .a_depth_stride = stride,
                           .a_row_stride = 1,
                           .b = right + first * stride + tile.column,
                           .b_stride = stride,
                           .weights = weights.empty() ? nullptr : weights.data() + first,
                           .c = own.tile.data(),
                           .c_stride = kTile,
                           .rows = rows,
                           .columns = width,
                           .depth = std::min(kRun, tokens - first),
                           .alpha = 1.0f,
                           .scratch = own.product.data()});
        for (int64_t i = 0; i < rows; ++i) {
          double* to = sums + (tile.row + i) * columns + tile.column;
          const float* from = own.tile.data() + i * kTile;
          for (int64_t j = 0; j < width; ++j) to[j] += static_cast<double>(from[j]);
        }
      }
    }
  });
}

std::vector<Tile> all_tiles(int64_t columns, bool lower_only) {
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < columns; row += kTile) {
    const int64_t end = lower_only ? row + 1 : columns;
    for (int64_t column = 0; column < end; column += kTile) tiles.push_back({row, column});
  }
  return tiles;
}

}  // namespace

Hessian::Hessian(int64_t columns, HessianKind kind)
    : columns_(columns),
      kind_(kind),
      values_(zeros(columns, kind == HessianKind::kFull ? columns : 1)) {}

void Hessian::add(const float* x, int64_t stride, int64_t tokens,
                  std::span<const float> token_weights, ThreadPool& pool) {
  JANG_ASSERT(token_weights.empty() || static_cast<int64_t>(token_weights.size()) == tokens);
  tokens_ += static_cast<double>(tokens);
  weight_ += total_weight(tokens, token_weights);
  if (kind_ == HessianKind::kFull) {
    add_tiles(x, x, stride, tokens, token_weights, columns_, all_tiles(columns_, true),
              values_.data(), pool);
    return;
  }
  pool.split(columns_, 64, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x + t * stride;
      const double weight =
          token_weights.empty() ? 1.0 : static_cast<double>(token_weights[static_cast<size_t>(t)]);
      for (int64_t j = begin; j < end; ++j) {
        const auto value = static_cast<double>(row[j]);
        values_[static_cast<std::size_t>(j)] += weight * (value * value);
      }
    }
  });
}

void Hessian::merge(const Hessian& other, double factor) {
  JANG_ASSERT(other.columns_ == columns_);
  JANG_ASSERT(kind_ == HessianKind::kDiagonal || other.kind_ == HessianKind::kFull);
  tokens_ += factor * other.tokens_;
  weight_ += factor * other.weight_;
  if (kind_ == HessianKind::kDiagonal) {
    for (int64_t j = 0; j < columns_; ++j)
      values_[static_cast<std::size_t>(j)] += factor * other.diagonal(j);
    return;
  }
  for (std::size_t i = 0; i < values_.size(); ++i) values_[i] += factor * other.values_[i];
}

Hessian Hessian::from_sums(int64_t columns, HessianKind kind, std::span<const double> values,
                           double tokens, double weight) {
  Hessian h(columns, kind);
  if (values.size() != h.values_.size()) {
    throw Error(ErrorCode::kArgument, "second moments: expected " +
                                          std::to_string(h.values_.size()) + " values, found " +
                                          std::to_string(values.size()));
  }
  if (!(tokens > 0.0 && std::isfinite(tokens) && weight > 0.0 && std::isfinite(weight))) {
    throw Error(ErrorCode::kArgument,
                "second moments: expected tokens and weight above zero, found " +
                    std::to_string(tokens) + " and " + std::to_string(weight));
  }
  std::copy(values.begin(), values.end(), h.values_.data());
  h.tokens_ = tokens;
  h.weight_ = weight;
  return h;
}

double Hessian::diagonal(int64_t column) const noexcept {
  return values_[static_cast<std::size_t>(kind_ == HessianKind::kFull ? column * columns_ + column
                                                                      : column)];
}

void Hessian::symmetrize(ThreadPool& pool) {
  JANG_ASSERT(kind_ == HessianKind::kFull);
  constexpr int64_t kBlock = 64;
  double* const h = values_.data();
  // Column by column of blocks below the diagonal, through blocks that stay in cache.
  pool.share(columns_, kBlock, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t column = begin; column < columns_; column += kBlock) {
      const int64_t column_end = std::min(columns_, column + kBlock);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = std::max(column, i + 1); j < column_end; ++j)
          h[i * columns_ + j] = h[j * columns_ + i];
      }
    }
  });
}

ByteCount Hessian::bytes(int64_t columns, HessianKind kind) noexcept {
  return ByteCount(columns) * (kind == HessianKind::kFull ? columns : 1) * sizeof(double);
}

CrossMoment::CrossMoment(int64_t columns) : columns_(columns), values_(zeros(columns, columns)) {}

void CrossMoment::add(const float* x, const float* quantized, int64_t stride, int64_t tokens,
                      std::span<const float> token_weights, ThreadPool& pool) {
  JANG_ASSERT(token_weights.empty() || static_cast<int64_t>(token_weights.size()) == tokens);
  weight_ += total_weight(tokens, token_weights);
  add_tiles(x, quantized, stride, tokens, token_weights, columns_, all_tiles(columns_, false),
            values_.data(), pool);
}

std::vector<float> capped_token_weights(std::span<const float> squared_norms) {
  std::vector<float> weights(squared_norms.size(), 1.0f);
  if (squared_norms.empty()) return weights;
  std::vector<float> sorted(squared_norms.begin(), squared_norms.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const float most = 20.0f * *middle;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    if (squared_norms[t] > most) weights[t] = most / squared_norms[t];
  }
  return weights;
}

double damping_rule(int64_t columns, double tokens) noexcept {
  return std::clamp(0.15 * static_cast<double>(columns) / tokens, 0.01, 0.5);
}

}  // namespace jang
