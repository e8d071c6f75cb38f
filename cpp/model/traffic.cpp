#include "model/traffic.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "arch/checkpoint_inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "kernels/kernel_table.h"
#include "model/branch.h"
#include "model/gathered_stack.h"

namespace jang {
namespace {

// One region of the pool: long enough for its start to cost nothing, short enough to be stopped.
constexpr std::size_t kRegionBytes = std::size_t{256} << 20;
// What a thread takes at a time. The streams of all threads stay near each other, as in a matrix.
constexpr int64_t kPieceBytes = int64_t{1} << 20;

/// Bytes that are read of an unquantized tensor, which may have been widened; a plain checkpoint
/// may store it in parts under other names.
uint64_t plain_bytes(const ModelDirectory& directory, const std::string& name,
                     std::optional<Inventory>& inventory) {
  if (const CheckpointTensor* tensor = directory.find_tensor(name)) {
    return tensor->dtype == DType::kF8E4M3 ? tensor->elements() * sizeof(float) : tensor->bytes();
  }
  if (!inventory) inventory = inventory_of(directory.config, directory.checkpoint);
  for (const FinalTensor& tensor : inventory->tensors) {
    if (tensor.name == name) return gathered_bytes(tensor);
  }
  JANG_ASSERT(false);
  return 0;
}

MatrixTotals totals_of(const ModelDirectory& directory, const SpecTensor& matrix,
                       std::optional<Inventory>& inventory) {
  const std::string path = matrix.name.substr(0, matrix.name.rfind(".weight"));
  MatrixTotals totals;
  totals.weights = 1;
  for (const uint64_t n : matrix.shape) totals.weights *= n;
  if (const QuantizedModule* module = directory.find_module(path)) {
    totals.bytes = module->weight->bytes() + module->scales->bytes() + module->biases->bytes();
  } else {
    totals.bytes = plain_bytes(directory, matrix.name, inventory);
  }
  if (matrix.chosen != 0) {
    totals.weights = totals.weights / matrix.shape[0] * matrix.chosen;
    totals.bytes = totals.bytes / matrix.shape[0] * matrix.chosen;
  }
  return totals;
}

/// What all tokens of a pass meet, whether their logits are wanted or not: the model up to its last
/// layer that later tokens read from, whose feed-forward stays out.
ModelSpec spec_for_all_tokens(ModelSpec spec) {
  while (!spec.layers.empty()) {
    LayerSpec& layer = spec.layers.back();
    if (is_read_later(layer)) {
      layer.feed_forward.reset();
      layer.layer_input.reset();
      break;
    }
    spec.layers.pop_back();
  }
  return spec;
}

/// Tells the matrices that only wanted tokens pass from the others.
class WantedOnly {
 public:
  explicit WantedOnly(const ModelSpec& spec) {
    const ModelSpec all = spec_for_all_tokens(spec);
    for (const SpecTensor& tensor : spec_tensors(all)) met_by_all_.insert(tensor.name);
    if (!all.layers.empty()) last_ = all.layers.back().mixer;
  }

  MatrixTotals part(const SpecTensor& matrix, const MatrixTotals& whole) const {
    if (!met_by_all_.contains(matrix.name)) return whole;
    const auto* attention = std::get_if<AttentionSpec>(&last_);
    if (attention == nullptr) return {};
    const auto is = [&](const LinearSpec& linear) {
      return matrix.name == linear.path + ".weight";
    };
    if (is(attention->q) || is(attention->o)) return whole;
    if (!attention->qkv || !is(*attention->qkv)) return {};
    const auto share = [&](uint64_t n) {
      return n / static_cast<uint64_t>(attention->qkv->out) *
             static_cast<uint64_t>(attention->q.out);
    };
    return {share(whole.weights), share(whole.bytes)};
  }

 private:
  std::set<std::string> met_by_all_;  // names of tensors
  MixerSpec last_ = NoMixerSpec{};    // that later tokens read from
};

std::vector<std::span<const std::byte>> whole_files(const Checkpoint& checkpoint) {
  std::vector<std::span<const std::byte>> files(checkpoint.files().size());
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    files[tensor.file] = checkpoint.mapping(tensor).bytes();
  }
  return files;
}

}  // namespace

WeightTraffic weight_traffic(const ModelDirectory& directory, const ModelSpec& spec) {
  const std::string embedding = spec.embedding.path + ".weight";
  const std::string head = spec.head.tied ? embedding : spec.head.linear.path + ".weight";
  WeightTraffic traffic;
  std::optional<Inventory> inventory;
  const WantedOnly wanted_only(spec);
  for (const SpecTensor& tensor : spec_tensors(spec)) {
    if (!tensor.matrix || (tensor.name == embedding && !spec.head.tied)) continue;
    if (spec.layer_inputs && tensor.name == spec.layer_inputs->table + ".weight") continue;
    const MatrixTotals one = totals_of(directory, tensor, inventory);
    MatrixTotals& group = tensor.name == head ? traffic.head : traffic.layers;
    group.weights += one.weights;
    group.bytes += one.bytes;
    if (tensor.name != head) {
      const MatrixTotals part = wanted_only.part(tensor, one);
      traffic.wanted_only.weights += part.weights;
      traffic.wanted_only.bytes += part.bytes;
    }
    if (tensor.chosen == 0) continue;
    traffic.experts.weights += one.weights;
    traffic.experts.bytes += one.bytes;
  }
  return traffic;
}

ReadPass read_pass(const Checkpoint& checkpoint, ThreadPool& pool,
                   const std::function<void()>& poll) {
  const char* message = nullptr;
  const kernels::KernelTable* widest = kernels::choose_table(nullptr, &message);
  JANG_ASSERT(widest != nullptr);
  std::atomic<uint64_t> sum{0};
  const auto start = std::chrono::steady_clock::now();
  for (std::span<const std::byte> left : whole_files(checkpoint)) {
    while (!left.empty()) {
      if (poll) poll();
      const auto region = left.first(std::min(left.size(), kRegionBytes));
      left = left.subspan(region.size());
      const auto* bytes = reinterpret_cast<const uint8_t*>(region.data());
      pool.share(static_cast<int64_t>(region.size()), kPieceBytes,
                 [&](int64_t begin, int64_t end, int /*worker*/) {
                   sum.fetch_add(widest->sum_words(bytes + begin, end - begin),
                                 std::memory_order_relaxed);
                 });
    }
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return {taken.count(), sum.load(std::memory_order_relaxed)};
}

}  // namespace jang
