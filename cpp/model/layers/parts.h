// How layers cut their channels and heads into units of work, and the shapes of their tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace jang {

/// Parts of at most `part` that `whole` falls into.
constexpr int64_t parts_for(int64_t whole, int64_t part) noexcept {
  return (whole + part - 1) / part;
}

/// The shape of a tensor with these lengths.
template <typename... Lengths>
std::vector<uint64_t> shape_of(Lengths... lengths) {
  return {static_cast<uint64_t>(lengths)...};
}

}  // namespace jang
