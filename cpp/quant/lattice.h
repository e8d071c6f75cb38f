// Weights that already lie on a lattice: quantization-aware training, INT4, FP4 and MXFP4 sources
// that were expanded to floats. They are stored without loss, and no solver touches them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/thread_pool.h"
#include "quant/affine_format.h"

namespace jang {

/// One group as stored: the source's values are exactly source_type(s*q + b).
struct LatticeFit {
  float scale = 0.0f;
  float bias = 0.0f;
};

/// A pair of the metadata type and codes of at most `bits` that give back every value of a group
/// (at most 128, finite), or nothing. `codes` has the size of `values`.
std::optional<LatticeFit> fit_lattice(std::span<const float> values, DType source, DType metadata,
                                      int bits, std::span<uint8_t> codes);

struct LatticeMatch {
  AffineFormat format;
  uint64_t groups = 0;
  uint64_t lossless_groups = 0;
  bool lossless() const noexcept { return lossless_groups == groups; }
  double share() const noexcept {
    return groups == 0 ? 0.0 : static_cast<double>(lossless_groups) / static_cast<double>(groups);
  }
};

/// The format of fewest bytes that stores at least 99 % of a tensor's groups losslessly, or
/// nothing. Looks at a sample first, so that other tensors cost little.
std::optional<LatticeMatch> find_lattice(const SourcePanel& source, DType metadata,
                                         ThreadPool& pool);

/// Stores a tensor in `format`: losslessly where a group allows it, by Method::kMse where not.
/// Returns how many groups are lossless. Errors as quantize_matrix.
LatticeMatch store_lattice(const SourcePanel& source, const AffineFormat& format,
                           const AffinePanel& out, ThreadPool& pool);

}  // namespace jang
