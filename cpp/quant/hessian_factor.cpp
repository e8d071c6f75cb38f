// With J the reversal of both axes and Hp the permuted, damped H: J Hp J = U^T U gives Hp = R R^T
// for R = J U^T J, which is upper, and A = R diag(R)^-1, D = diag(R)^2. No inverse is formed.
#include "quant/hessian_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/large_pages.h"
#include "kernels/kernel_table.h"
#include "quant/cholesky.h"

namespace jang {
namespace {

constexpr int kMostAttempts = 5;
constexpr int64_t kBlock = 64;

void check_finite(const Hessian& hessian, ThreadPool& pool) {
  const int64_t n = hessian.columns();
  pool.split(n, 16, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const double* row = hessian.values() + i * n;
      // x - x is 0 for a finite x alone; the sum has no exit and vectorises.
      double found = 0.0;
      for (int64_t j = 0; j <= i; ++j) found += row[j] - row[j];
      if (found == 0.0 && row[i] >= 0.0) continue;
      if (found == 0.0) {
        throw Error(ErrorCode::kArgument, "second moments: column " + std::to_string(i) +
                                              ": expected a diagonal of at least 0, found " +
                                              std::to_string(row[i]));
      }
      throw Error(ErrorCode::kNonFinite, "second moments: column " + std::to_string(i) +
                                             ": NaN or infinity where a finite sum is expected");
    }
  });
}

// The mean of the diagonal over columns that have one.
double live_mean(const std::vector<double>& diagonal) {
  double sum = 0.0;
  int64_t live = 0;
  for (const double d : diagonal) {
    sum += d;
    live += d > 0.0 ? 1 : 0;
  }
  // Inputs that are all zero: any weights do, so the identity.
  return live == 0 ? 1.0 : sum / static_cast<double>(live);
}

std::vector<float> floored_weights(const std::vector<double>& diagonal) {
  std::vector<double> live;
  for (const double d : diagonal) {
    if (d > 0.0) live.push_back(d);
  }
  if (live.empty()) return std::vector<float>(diagonal.size(), 1.0f);
  const auto middle = live.begin() + static_cast<std::ptrdiff_t>(live.size() / 2);
  std::nth_element(live.begin(), middle, live.end());
  // Relative to the median, so that float32 holds them whatever the scale of the inputs.
  std::vector<float> weights;
  weights.reserve(diagonal.size());
  for (const double d : diagonal)
    weights.push_back(static_cast<float>(std::max(d / *middle, 1e-4)));
  return weights;
}

// A and D from U; see the head of the file.
void take_factor(const double* u, int64_t n, HessianFactor& factor, ThreadPool& pool) {
  factor.a = large_page_buffer<float>(static_cast<std::size_t>(n * n));
  factor.costs.resize(static_cast<std::size_t>(n));
  pool.share(n, kBlock, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t column = begin; column < n; column += kBlock) {
      const int64_t column_end = std::min(n, column + kBlock);
      for (int64_t i = begin; i < end; ++i) {
        float* const row = factor.a.data() + i * n;
        for (int64_t k = std::max(column, i); k < column_end; ++k) {
          const double* const from = u + (n - 1 - k) * n + (n - 1);
          row[k] = static_cast<float>(from[-i] / from[-k]);
        }
      }
    }
    for (int64_t k = begin; k < end; ++k) {
      const double pivot = u[(n - 1 - k) * n + (n - 1 - k)];
      factor.costs[static_cast<std::size_t>(k)] = static_cast<float>(pivot * pivot);
    }
  });
}

}  // namespace

// Two matrices, and per column: a float of three vectors and an index.
ByteCount HessianFactor::bytes(int64_t columns) noexcept {
  return ByteCount(columns) * columns * (2 * sizeof(float)) +
         ByteCount(columns) * (3 * sizeof(float) + sizeof(int32_t));
}

// The matrix that becomes the Cholesky factor, the threads' tiles, and the diagonal.
ByteCount HessianFactor::making_bytes(int64_t columns, int threads) noexcept {
  return ByteCount(columns) * (columns + 1) * sizeof(double) +
         ByteCount(threads) * kernels::kProductScratch<double> * sizeof(double);
}

HessianFactor factor_hessian(Hessian& hessian, const FactorOptions& options, ThreadPool& pool) {
  JANG_ASSERT(hessian.kind() == HessianKind::kFull);
  const int64_t n = hessian.columns();
  if (!(hessian.weight() > 0.0 && hessian.tokens() > 0.0)) {
    throw Error(ErrorCode::kArgument, "second moments: no tokens were added");
  }
  check_finite(hessian, pool);
  hessian.symmetrize(pool);

  HessianFactor factor;
  factor.columns = n;
  factor.tokens = hessian.tokens();
  const double to_mean = 1.0 / hessian.weight();
  std::vector<double> diagonal(static_cast<std::size_t>(n));
  for (int64_t k = 0; k < n; ++k)
    diagonal[static_cast<std::size_t>(k)] = hessian.diagonal(k) * to_mean;
  factor.grid_weights = floored_weights(diagonal);
  factor.mean_diagonal = live_mean(diagonal);
  for (double& d : diagonal) d = d > 0.0 ? d : factor.mean_diagonal;

  const double rule = options.damping > 0.0 ? options.damping : damping_rule(n, factor.tokens);
  factor.values_damping = factor.tokens < static_cast<double>(n) ? rule : 0.0;
  factor.values = large_page_buffer<float>(static_cast<std::size_t>(n * n));
  const double added = factor.values_damping * factor.mean_diagonal;
  pool.split(n, 16, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const double* const from = hessian.values() + i * n;
      float* const to = factor.values.data() + i * n;
      for (int64_t j = 0; j < n; ++j) to[j] = static_cast<float>(from[j] * to_mean);
      to[i] = static_cast<float>(diagonal[static_cast<std::size_t>(i)] + added);
    }
  });
  for (int64_t k = 0; k < n; ++k)
    factor.inverse_diagonal.push_back(1.0f / factor.values[static_cast<std::size_t>(k * n + k)]);

  factor.order.resize(static_cast<std::size_t>(n));
  std::iota(factor.order.begin(), factor.order.end(), 0);
  if (options.activation_order) {
    std::stable_sort(factor.order.begin(), factor.order.end(), [&](int32_t x, int32_t y) {
      return diagonal[static_cast<std::size_t>(x)] > diagonal[static_cast<std::size_t>(y)];
    });
  }

  auto reversed = large_page_buffer<double>(static_cast<std::size_t>(n * n));
  factor.lambda = rule;
  while (true) {
    ++factor.attempts;
    const double damping = factor.lambda * factor.mean_diagonal;
    pool.split(n, 16, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) {
        const auto column = static_cast<int64_t>(factor.order[static_cast<std::size_t>(n - 1 - i)]);
        const double* const from = hessian.values() + column * n;
        double* const to = reversed.data() + i * n;
        for (int64_t j = 0; j < n; ++j)
          to[j] = from[factor.order[static_cast<std::size_t>(n - 1 - j)]] * to_mean;
        to[i] = diagonal[static_cast<std::size_t>(column)] + damping;
      }
    });
    if (!cholesky(reversed.data(), n, pool)) break;
    if (factor.attempts == kMostAttempts) {
      factor.order.clear();
      return factor;
    }
    factor.lambda *= 4.0;
  }
  factor.factored = true;
  take_factor(reversed.data(), n, factor, pool);
  return factor;
}

}  // namespace jang
