// The inventory of an opened plain checkpoint: tensors listed, heads compared, faults given the
// file they lie in.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arch/inventory.h"
#include "base/error.h"
#include "io/checkpoint.h"

namespace jang {

/// Names, dtypes and shapes of all tensors, in the order of checkpoint.tensors(): RowRange::tensor
/// counts alike in both.
std::vector<SourceTensor> source_tensors(const Checkpoint& checkpoint);

/// Error without a file, about a tensor: thrown anew with the shard of the tensor, or the index
/// file for a tensor that no shard has.
[[noreturn]] void rethrow_naming_file(const Error& error, const Checkpoint& checkpoint);

/// Runs `check`, whose errors get the file that their tensor lies in.
template <typename Check>
auto naming_files(const Checkpoint& checkpoint, Check&& check) {
  try {
    return check();
  } catch (const Error& error) {
    rethrow_naming_file(error, checkpoint);
  }
}

enum class HeadComparison {
  kPayloads,  // a stored lm_head that config.json ties is compared with the embedding; needs
              // kMapped
  kSkipped,
};

/// build_inventory over the checkpoint; an Error names the shard of its tensor, or the index file
/// for a tensor that no shard has.
Inventory inventory_of(const ModelConfig& config, const Checkpoint& checkpoint,
                       HeadComparison heads = HeadComparison::kPayloads);
/// The same with the value of stored_heads_equal (tied_head.h) from whoever knows it.
Inventory inventory_of(const ModelConfig& config, const Checkpoint& checkpoint,
                       std::optional<bool> heads_equal);

}  // namespace jang
