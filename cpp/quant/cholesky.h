// Cholesky factorization in float64: G = U^T U, U upper triangular, in place.
//
// Blocked and right-looking; threads share the tiles of the trailing update. An element's bits do
// not depend on their number.
#pragma once

#include <cstdint>
#include <optional>

#include "base/thread_pool.h"

namespace jang {

/// Replaces the upper triangle of g (n rows of n doubles; the rest is neither read nor meaningful
/// afterwards) by U. Returns the row whose pivot is not above zero, or nothing on success.
std::optional<int64_t> cholesky(double* g, int64_t n, ThreadPool& pool);

}  // namespace jang
