#include "calibrate/solve_order.h"

#include <algorithm>
#include <map>
#include <string>

#include "arch/spec_tensors.h"
#include "calibrate/shared_keys.h"

namespace jang {
namespace {

/// Final names of all tensors that the spec asks for, each with its position.
std::map<std::string, uint64_t> named_positions(const ModelSpec& spec) {
  ModelSpec some = spec;
  some.layers.clear();
  const std::vector<SpecTensor> outside = spec_tensors(some);
  std::map<std::string, uint64_t> positions;
  std::size_t before = outside.size();  // of the first layer; what a layer adds lies behind
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    some.layers = {spec.layers[i]};
    const std::vector<SpecTensor> all = spec_tensors(some);
    before = static_cast<std::size_t>(
        std::mismatch(outside.begin(), outside.end(), all.begin(), all.end(),
                      [](const SpecTensor& a, const SpecTensor& b) { return a.name == b.name; })
            .first -
        outside.begin());
    const std::size_t behind = all.size() - (outside.size() - before);
    for (std::size_t k = before; k < behind; ++k) positions[all[k].name] = i + 1;
  }
  for (std::size_t k = 0; k < outside.size(); ++k)
    positions[outside[k].name] = k < before ? 0 : spec.layers.size() + 1;
  return positions;
}

}  // namespace

std::vector<uint64_t> solve_stops(const ModelSpec& spec) {
  std::vector<uint64_t> stops;
  for (std::size_t layer = 1; layer < spec.layers.size(); ++layer)
    if (!reads_across(spec, layer)) stops.push_back(layer);
  stops.push_back(spec.layers.size() + 1);
  return stops;
}

std::vector<uint64_t> tensor_positions(const ModelSpec& spec, const Plan& plan) {
  const std::map<std::string, uint64_t> named = named_positions(spec);
  std::vector<uint64_t> positions;
  uint64_t last = 0;  // a tensor that only written models have lies behind its module
  for (const PlannedTensor& planned : plan.tensors) {
    const auto found = named.find(planned.tensor.name);
    if (found != named.end()) last = found->second;
    const bool solved_last = spec.head.tied && planned.format && !planned.lattice &&
                             planned.tensor.path == spec.embedding.path;
    positions.push_back(solved_last ? spec.layers.size() + 1 : last);
  }
  return positions;
}

}  // namespace jang
