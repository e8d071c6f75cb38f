// Weights bound to the mapped files: a spec's paths become pointers. Matrices stay packed where
// they lie, but for stacks whose rows no source has as they are (gathered_stack.h); only vectors
// (norm gains, biases) are widened to f32 copies.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "arch/directory.h"
#include "arch/inventory.h"
#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"

namespace jang {

using MatrixWeight = std::variant<kernels::AffineMatrix, kernels::DenseMatrix>;
using SharedMemory = std::shared_ptr<const AlignedBuffer<std::byte>>;

struct LinearWeight {
  std::string path;  // of the spec; empty for a matrix of a stack
  MatrixWeight matrix;
  std::vector<float> bias;  // empty or [rows]
  int64_t rows = 0;
  int64_t columns = 0;
  SharedMemory memory = {};  // what the matrix lies in, if not in a file
};

/// Rows [first, first + rows) of a matrix: a view of the same memory, of the same path.
LinearWeight rows_of(const LinearWeight& whole, int64_t first, int64_t rows);

/// As the matrix is stored, scales and biases included.
uint64_t stored_bytes(const LinearWeight& weight);

/// Binds by path and remembers what was used, so that a tensor nobody asked for is noticed.
class WeightBinder {
 public:
  /// Both outlive the object.
  WeightBinder(const ModelDirectory& directory, ThreadPool& pool);

  /// From now on `path` is bound to this matrix instead of what the directory holds; of a stack,
  /// its matrices one behind the other. The memory stays the caller's.
  void replace(const std::string& path, const kernels::AffineMatrix& matrix) {
    replaced_.insert_or_assign(path, matrix);
  }
  void restore() { replaced_.clear(); }
  /// Calls visit(tensor) for all tensors of the directory that were bound since the last call.
  template <typename Visit>
  void visit_bound(Visit&& visit) {
    for (const CheckpointTensor* tensor : bound_) visit(*tensor);
    bound_.clear();
  }

  /// Throws kMissingTensor or kTensorShape naming file, tensor, expected and found.
  LinearWeight linear(const LinearSpec& spec);
  /// The bias of a module alone; empty if it has none.
  std::vector<float> bias(const LinearSpec& spec);
  /// The matrices of a stack, which lie one behind the other or, in a plain checkpoint, each in a
  /// tensor of its own or inside a fused one. What lies there otherwise is gathered into memory,
  /// which as long as any of its matrices lives serves the next call, too.
  std::vector<LinearWeight> stack(const StackSpec& spec);
  /// The same, each matrix [in][out], where a plain checkpoint stores them so; else nullopt.
  std::optional<std::vector<LinearWeight>> transposed_stack(const StackSpec& spec);
  std::vector<float> norm(const NormSpec& spec);
  /// Empty if the norm has none.
  std::vector<float> norm_bias(const NormSpec& spec);
  /// All values of the plain tensor of that name, which has this shape.
  std::vector<float> values(const std::string& name, const std::vector<uint64_t>& shape);
  /// Taps of a depthwise convolution, [taps][channels]; stored as [channels, taps, 1] or, in plain
  /// checkpoints, as [channels, 1, taps].
  std::vector<float> convolution(const std::string& path, int64_t channels, int64_t taps);

  /// Whether any matrix bound so far is quantized.
  bool any_quantized() const noexcept { return any_quantized_; }

  /// Throws kExtraTensor for a tensor that was not bound and that the family does not drop.
  void check_all_used() const;

 private:
  /// The tensor of that final name, or nullptr; a plain checkpoint may spell it otherwise.
  const CheckpointTensor* find(const std::string& name);
  const CheckpointTensor& plain(const std::string& name, const std::vector<uint64_t>& shape);
  /// An unquantized matrix.
  kernels::DenseMatrix dense(const std::string& name, const std::vector<uint64_t>& shape);
  std::vector<MatrixWeight> stored_stack(const StackSpec& spec, SharedMemory& memory);
  void add_biases(const StackSpec& spec, std::vector<LinearWeight>& matrices);
  const FinalTensor& final_tensor(const std::string& name, const std::vector<uint64_t>& shape);
  /// The module of that path, marked as used, or nullptr; Error{kTensorShape} if `shape` is not
  /// its.
  const QuantizedModule* module(const std::string& path, const std::vector<uint64_t>& shape);
  std::vector<float> picked_values(const FinalTensor& tensor);
  void use(const CheckpointTensor& tensor);
  void use_sources(const FinalTensor& tensor);
  const Inventory& inventory() const;

  const ModelDirectory& directory_;
  ThreadPool& pool_;
  std::map<std::string, std::weak_ptr<const AlignedBuffer<std::byte>>> gathered_;  // by path
  bool any_quantized_ = false;
  mutable std::optional<Inventory> inventory_;  // of a plain checkpoint, once it is needed
  std::map<std::string, kernels::AffineMatrix, std::less<>> replaced_;
  std::vector<const CheckpointTensor*> bound_;
  std::vector<bool> used_;  // by position in checkpoint.tensors()
};

}  // namespace jang
