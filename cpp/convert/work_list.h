// The shards of a plan as panels to work on.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/panels.h"
#include "convert/shard_output.h"
#include "plan/plan.h"

namespace jang {

struct WorkList {
  std::vector<Panel> panels;     // shard by shard, tensor by tensor, in order
  std::vector<Panel> whole;      // behind them: tensors that are solved, a panel each
  std::vector<uint64_t> counts;  // panels of each planned tensor
  uint64_t bytes = 0;
};

/// `solved`: quantized tensors are not cut, but for those on lattices.
WorkList cut_shards(const Plan& plan, const ShardRange& range, bool solved);

}  // namespace jang
