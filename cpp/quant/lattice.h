// Weights that already lie on a lattice: quantization-aware training, INT4, FP4 and MXFP4 sources
// that were expanded to floats. They are stored without loss, and no solver touches them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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

/// How many groups of one size need each width of kBitWidths; the last entry: no width stores them.
using WidthNeeds = std::array<uint64_t, kBitWidths.size() + 1>;

/// Adds the groups of a panel, whose values are finite, on the calling thread.
void count_widths(const SourcePanel& source, DType metadata, int group_size, WidthNeeds& needs);

/// How many of a part's groups may miss: one in a hundred.
constexpr uint64_t allowed_misses(uint64_t groups) noexcept { return groups / 100; }

/// Whether a sample of `groups` groups, of which some may not be counted yet, leaves it open that
/// 99 % of all lie on a lattice.
bool may_be_lattice(const WidthNeeds& sample, uint64_t groups) noexcept;

/// The narrowest format that stores at least 99 % of the groups of every part losslessly and, if it
/// does not store all of them, the narrowest that does. Empty if there is none. Parts: what must
/// not lean on the rest, as the experts of a stack.
std::vector<LatticeMatch> lattice_formats(std::span<const WidthNeeds> parts, int group_size,
                                          DType metadata);

/// The format of fewest bytes that stores at least 99 % of a tensor's groups losslessly, or
/// nothing. Looks at a sample first, so that other tensors cost little.
std::optional<LatticeMatch> find_lattice(const SourcePanel& source, DType metadata,
                                         ThreadPool& pool);

/// Stores whole rows, or a run of whole groups of one row, on the calling thread: losslessly where
/// a group allows it, by Method::kMse where not. Returns how many groups are lossless. Errors as
/// quantize_panel.
uint64_t store_lattice_panel(const SourcePanel& source, const AffineFormat& format,
                             const AffinePanel& out);

/// The same of a tensor, over the pool. Errors as quantize_matrix.
LatticeMatch store_lattice(const SourcePanel& source, const AffineFormat& format,
                           const AffinePanel& out, ThreadPool& pool);

}  // namespace jang
