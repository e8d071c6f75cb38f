#include "convert/work_list.h"

namespace jang {

WorkList cut_shards(const Plan& plan, const ShardRange& range, bool solved) {
  WorkList work;
  work.counts.resize(plan.tensors.size());
  for (uint32_t shard = range.begin; shard < range.end; ++shard) {
    for (const uint32_t index : plan.shards[shard]) {
      const FinalTensor& tensor = plan.tensors[index].tensor;
      const uint64_t columns = tensor.columns();
      const uint64_t rows = columns == 0 ? 0 : tensor.elements() / columns;
      if (solved && plan.tensors[index].format && !plan.tensors[index].lattice) {
        work.whole.push_back(whole_panel(index, tensor));
        work.counts[index] = 1;
        continue;
      }
      const std::size_t before = work.panels.size();
      cut_panels(index, tensor, rows, work.panels);
      work.counts[index] = work.panels.size() - before;
    }
  }
  for (const Panel& panel : work.panels) work.bytes += panel.bytes;
  for (const Panel& panel : work.whole) work.bytes += panel.bytes;
  return work;
}

}  // namespace jang
