#include "model/gathered_stack.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "arch/mxfp4.h"
#include "arch/source_values.h"
#include "quant/affine_format.h"
#include "quant/kernel_types.h"

namespace jang {
namespace {

constexpr int64_t kRows = 64;  // that a thread takes at a time

constexpr AffineFormat kPacked{kMxfp4AffineBits, static_cast<int>(kMxfp4Block), DType::kBF16};

uint64_t row_count(const FinalTensor& tensor) { return tensor.elements() / tensor.columns(); }

/// Codes, scales and biases of packed rows, one array behind the other, and where the last ends.
std::array<uint64_t, 4> packed_places(const FinalTensor& tensor) {
  constexpr uint64_t kLine = kBufferAlignment;
  const uint64_t rows = row_count(tensor);
  const uint64_t codes = (rows * kPacked.row_bytes(tensor.columns()) + kLine - 1) / kLine * kLine;
  const uint64_t groups = rows * kPacked.row_groups(tensor.columns()) *
                          static_cast<uint64_t>(dtype_size(kPacked.metadata));
  return {0, codes, codes + groups, codes + 2 * groups};
}

}  // namespace

SharedMemory gather_stack(const Checkpoint& checkpoint, const FinalTensor& tensor,
                          ThreadPool& pool) {
  const auto memory = std::make_shared<AlignedBuffer<std::byte>>(gathered_bytes(tensor));
  std::byte* const out = memory->data();
  const auto rows = static_cast<int64_t>(row_count(tensor));
  const uint64_t columns = tensor.columns();
  const std::array<uint64_t, 4> places =
      tensor.scales ? packed_places(tensor) : std::array<uint64_t, 4>{};
  const uint64_t code_bytes = kPacked.row_bytes(columns);
  const uint64_t group_bytes =
      kPacked.row_groups(columns) * static_cast<uint64_t>(dtype_size(kPacked.metadata));
  const std::vector<CheckpointTensor>& sources = checkpoint.tensors();
  const CheckpointTensor& source = sources[tensor.ranges.front().tensor];
  std::optional<Mxfp4Rows> packed;
  if (tensor.scales) packed.emplace(checkpoint, source, sources[*tensor.scales]);
  pool.share(rows, kRows, [&](int64_t begin, int64_t end, int /*worker*/) {
    const auto first = static_cast<uint64_t>(begin), last = static_cast<uint64_t>(end);
    if (!packed) {
      gather_values(checkpoint, tensor, first, last - first, 0, columns,
                    out + first * columns * static_cast<uint64_t>(dtype_size(tensor.dtype)));
      return;
    }
    for (uint64_t row = first; row < last; ++row) {
      packed->affine(locate_row(tensor, row).row, kernel_bytes(out + places[0] + row * code_bytes),
                     kernel_bytes(out + places[1] + row * group_bytes),
                     kernel_bytes(out + places[2] + row * group_bytes));
    }
  });
  // Nothing reads these pages again but another projection of the same source.
  checkpoint.mapping(source).drop(source.begin, source.bytes());
  return memory;
}

std::vector<MatrixWeight> gathered_matrices(const FinalTensor& tensor,
                                            const AlignedBuffer<std::byte>& memory) {
  const uint64_t matrices = tensor.shape.front(), columns = tensor.columns();
  const uint64_t rows = row_count(tensor) / matrices;
  const uint8_t* const data = kernel_bytes(memory.data());
  const auto out = static_cast<int64_t>(rows), in = static_cast<int64_t>(columns);
  std::vector<MatrixWeight> result;
  if (!tensor.scales) {
    const uint64_t bytes = rows * columns * static_cast<uint64_t>(dtype_size(tensor.dtype));
    for (uint64_t i = 0; i < matrices; ++i)
      result.emplace_back(
          kernels::DenseMatrix{data + i * bytes, out, in, kernel_type(tensor.dtype)});
    return result;
  }
  const std::array<uint64_t, 4> places = packed_places(tensor);
  const uint64_t code_bytes = rows * kPacked.row_bytes(columns);
  const uint64_t group_bytes =
      rows * kPacked.row_groups(columns) * static_cast<uint64_t>(dtype_size(kPacked.metadata));
  for (uint64_t i = 0; i < matrices; ++i) {
    result.emplace_back(
        kernels::AffineMatrix{data + places[0] + i * code_bytes, data + places[1] + i * group_bytes,
                              data + places[2] + i * group_bytes, out, in, kPacked.bits,
                              kPacked.group_size, kernel_type(kPacked.metadata)});
  }
  return result;
}

uint64_t gathered_bytes(const FinalTensor& tensor) {
  return tensor.scales ? packed_places(tensor).back() : tensor.bytes();
}

}  // namespace jang
