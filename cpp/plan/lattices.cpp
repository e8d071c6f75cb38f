// Lookups, and the choice for profiles.
#include "plan/lattices.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "plan/widths.h"

namespace jang {

std::vector<Lattice> lattices_of(const Lattices& lattices, std::string_view path,
                                 std::optional<int> group_size) {
  std::vector<Lattice> out;
  const auto found = lattices.find(path);
  if (found == lattices.end()) return out;
  std::copy_if(found->second.begin(), found->second.end(), std::back_inserter(out),
               [&](const Lattice& l) { return !group_size || l.group_size == *group_size; });
  return out;
}

bool holds_lattice(const Lattices& lattices, std::string_view path, int bits,
                   int group_size) noexcept {
  const auto found = lattices.find(path);
  if (found == lattices.end() || group_size == 0) return false;
  return std::any_of(found->second.begin(), found->second.end(), [&](const Lattice& lattice) {
    return bits >= lattice.bits && lattice.group_size % group_size == 0;
  });
}

void take_lattices(const Lattices& lattices, std::optional<int> group_size,
                   std::vector<WidthUnit>& units) {
  if (lattices.empty()) return;
  // Of equal shares the fewest bytes: bits first, then the wider group.
  const auto worse = [](const Lattice& a, const Lattice& b) {
    return std::tuple(a.share, -a.bits, a.group_size) < std::tuple(b.share, -b.bits, b.group_size);
  };
  for (WidthUnit& unit : units) {
    if (unit.fixed || unit.bits == 0) continue;
    std::vector<Lattice> fitting = lattices_of(lattices, unit.source->path, group_size);
    std::erase_if(fitting, [&](const Lattice& lattice) { return lattice.bits > unit.bits; });
    if (fitting.empty()) continue;
    const Lattice& best = *std::max_element(fitting.begin(), fitting.end(), worse);
    unit.bits = best.bits;
    unit.group_size = best.group_size;
  }
}

}  // namespace jang
