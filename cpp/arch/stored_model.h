// A quantized directory, of whichever version or writer, as the tensors that a written model has:
// which rows of which codes, scales and offsets make up each. JANG v1 runs through this, and
// `jang upgrade` writes by it, so that both have the same values. Nothing is quantized again: codes
// are copied or, where parts of a tensor have several widths, stored with the widest.
//
// Relies on the inventory for names and rows; leaves reading whole panels to its users.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "arch/inventory.h"
#include "base/aligned_buffer.h"
#include "io/checkpoint.h"
#include "quant/affine_format.h"

namespace jang {

/// A quantized matrix or stack as it lies in the files.
struct StoredMatrix {
  AffineFormat format;
  std::vector<uint64_t> shape;  // [E,] out, in
  const CheckpointTensor* codes = nullptr;
  const CheckpointTensor* scales = nullptr;
  const CheckpointTensor* offsets = nullptr;
  bool zero_points = false;  // w = (q - offset) * s, so that the bias is -s * offset
};

/// Consecutive rows of one, all other axes flattened.
struct StoredRows {
  uint32_t matrix = 0;  // index into StoredModel::matrices
  uint64_t first = 0, rows = 0;
};

struct StoredTensor {
  std::optional<AffineFormat> format;  // nullopt: plain
  std::vector<StoredRows> rows;        // of a quantized one, in order
  bool widened = false;                // some of the rows have fewer bits than the format
  bool products = false;               // some of the biases are made of zero points
};

struct StoredModel {
  std::vector<StoredMatrix> matrices;
  /// Ranges of plain tensors count the checkpoint's tensors; those of quantized ones are
  /// `tensors[i].rows`.
  Inventory inventory;
  std::vector<StoredTensor> tensors;  // of inventory.tensors
};

/// Where biases are products of scales and zero points, whether F16 holds them is found by looking
/// at all of them. Throws as build_inventory, and Error{kUnsupportedFormat} naming file and tensor
/// for what cannot be placed without quantizing again.
StoredModel stored_model(const ModelDirectory& directory);

/// Memory for what read_rows makes; as large as the largest that it was asked for.
struct RowsScratch {
  AlignedBuffer<std::byte> codes, scales, biases;
  AlignedBuffer<uint8_t> unpacked;
};

/// Rows [first, first + count) of a quantized tensor in its format, in `scratch`.
AffinePanel read_rows(const ModelDirectory& directory, const StoredModel& model,
                      const StoredTensor& tensor, uint64_t first, uint64_t count,
                      RowsScratch& scratch);

/// Gives the pages of these rows back.
void drop_rows(const ModelDirectory& directory, const StoredModel& model,
               const StoredTensor& tensor, uint64_t first, uint64_t count);

/// Makes a JANG v1 directory one that runs like v2: `checkpoint` and `modules` become those of the
/// final tensors. They stay in the map where they lie there as they are needed; the others are made
/// in memory, of one tensor after the other.
void present_v1(ModelDirectory& directory);

}  // namespace jang
