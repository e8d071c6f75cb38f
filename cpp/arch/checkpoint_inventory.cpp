#include "arch/checkpoint_inventory.h"

#include <optional>

#include "arch/tied_head.h"
#include "base/error.h"

namespace jang {

std::vector<SourceTensor> source_tensors(const Checkpoint& checkpoint) {
  std::vector<SourceTensor> sources;
  sources.reserve(checkpoint.tensors().size());
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    sources.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  return sources;
}

void rethrow_naming_file(const Error& error, const Checkpoint& checkpoint) {
  if (!error.file().empty() || error.tensor().empty()) throw error;
  const CheckpointTensor* tensor = checkpoint.find(error.tensor());
  const std::vector<std::string>& files = checkpoint.files();
  const std::string file = tensor != nullptr   ? files[tensor->file]
                           : files.size() == 1 ? files.front()
                                               : "model.safetensors.index.json";
  throw Error(error.code(), file, error.tensor(), error.message(), error.hint());
}

Inventory inventory_of(const ModelConfig& config, const Checkpoint& checkpoint,
                       HeadComparison heads) {
  std::optional<bool> equal;
  if (heads == HeadComparison::kPayloads) equal = stored_heads_equal(config, checkpoint);
  return inventory_of(config, checkpoint, equal);
}

Inventory inventory_of(const ModelConfig& config, const Checkpoint& checkpoint,
                       std::optional<bool> heads_equal) {
  return naming_files(
      checkpoint, [&] { return build_inventory(config, source_tensors(checkpoint), heads_equal); });
}

}  // namespace jang
