// Lattices that tensors of a source lie on, as planning sees them: formats that lose nothing, or
// almost nothing. Who looks for them is another matter (convert/find_lattices.h).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace jang {

struct WidthUnit;

struct Lattice {
  int bits = 0;
  int group_size = 0;
  double share = 1;  // of the groups: stored without loss
};

/// By module path; of a module the formats worth having: none takes more bytes than another and
/// stores no larger share.
using Lattices = std::map<std::string, std::vector<Lattice>, std::less<>>;

/// Those of a module that `group_size` allows, if it is given.
std::vector<Lattice> lattices_of(const Lattices& lattices, std::string_view path,
                                 std::optional<int> group_size);

/// Whether a format holds one of the module's lattices: as many bits or more, in groups that each
/// lie within one of the lattice's.
bool holds_lattice(const Lattices& lattices, std::string_view path, int bits,
                   int group_size) noexcept;

/// Gives each unit that has a width and that no option fixed its lattice of the largest share, if
/// one has at most as many bits. No unit gets more bits.
void take_lattices(const Lattices& lattices, std::optional<int> group_size,
                   std::vector<WidthUnit>& units);

}  // namespace jang
