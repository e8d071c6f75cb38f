// The formats among which allocation chooses, matrix by matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "plan/lattices.h"
#include "plan/losses.h"
#include "plan/widths.h"

namespace jang {

struct Candidate {
  int bits = 0;
  int group_size = 0;
  uint64_t bytes = 0;    // codes, scales and biases, as in the file
  double loss = 0;       // a*e
  bool lattice = false;  // the source's own lattice: floors do not count
};

/// (bits, group size), ascending by bits, wide groups first: 2, 3, 4, 5 and 6 bits in groups of 128
/// and 64, 8 bits in groups of 128. Where 128 does not divide the inputs the widest group that
/// does; `group_size` narrows all to one. Empty if no group divides the inputs.
std::vector<std::pair<int, int>> candidate_formats(uint64_t columns, std::optional<int> group_size);

/// These formats with their bytes and losses, and `lattices` among them, in the same order: of a
/// lattice only the groups that miss it lose anything. `measured`: in place of the prior, or null.
/// Error{kArgument} for measured losses that are no numbers >= 0 or list no candidate.
std::vector<Candidate> candidates_of(const WidthContext& context, const WidthUnit& unit,
                                     std::optional<int> group_size, DType metadata,
                                     const ModuleLoss* measured,
                                     const std::vector<Lattice>& lattices);

}  // namespace jang
