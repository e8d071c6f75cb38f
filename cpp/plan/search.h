// Which candidate each item takes: the least loss whose bytes stay within a budget. Knows nothing
// of tensors: candidates.h makes the items, prior.h says what a loss means.
//
// Lagrangian relaxation over lower convex hulls, then exchanges with every candidate for the
// remainder. The same input gives the same answer: ties go to the item that comes first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace jang {

struct Choice {
  uint64_t bytes = 0;
  double loss = 0;
};

struct SearchItem {
  std::vector<Choice> choices;  // not empty; losses finite and not negative
};

struct Selection {
  std::vector<uint32_t> choices;  // of each item, an index into its choices
  uint64_t bytes = 0;
  double loss = 0;
};

/// Indices of the choices on the lower convex hull of (bytes, loss), from the cheapest to the one
/// of least loss. Of equal bytes the lower loss stays, of equal losses the fewer bytes.
std::vector<uint32_t> lower_hull(std::span<const Choice> choices);

/// At most `budget` bytes in all; if even the cheapest choices take more, those.
Selection search_choices(std::span<const SearchItem> items, uint64_t budget);

}  // namespace jang
