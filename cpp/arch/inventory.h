// From the tensors of a directory to the final tensors of the model: what each is called, which
// source rows make it up, what it is for. The one place where names change; conversion, planning
// and loading share it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/folded_factors.h"
#include "arch/roles.h"
#include "base/dtype.h"

namespace jang {

struct SourceTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<uint64_t> shape;
};

/// Columns `first`, `first + step`, ... of a source.
struct SourceColumns {
  uint64_t first = 0, step = 1;
};

/// `rows` rows (last axis = columns, all other axes flattened) of source tensor `tensor`, each
/// `step` behind the one before it.
struct RowRange {
  uint32_t tensor = 0;  // index into the sources given
  uint64_t row_begin = 0;
  uint64_t rows = 0;
  uint64_t step = 1;
};

/// Values that are codes of 8-bit floats in the source, with one scale for each block of that many
/// rows and columns of a matrix beside them (block_scales.h).
struct ScaleBlocks {
  uint64_t rows = 0, columns = 0;
};

struct FinalTensor {
  std::string name;             // "model.layers.0.mlp.switch_mlp.gate_proj.weight"
  std::string path;             // without ".weight" (same as name if it has none)
  std::string source;           // name of the source; of a stack with "*" for the expert's number
  std::vector<uint64_t> shape;  // final; its rows are the concatenation of `ranges`
  DType dtype = DType::kBF16;   // of the source's values
  /// The values are products of codes and scales; `dtype` is then F32.
  std::optional<ScaleBlocks> blocks;
  RoleMatch role;
  bool packable =
      false;  // a Linear, Embedding or expert stack: 2-D or 3-D weight that may be quantized
  std::vector<RowRange> ranges;
  /// Stored transposed: each range is a matrix of the tensor, whose columns are the range's rows
  /// and whose rows are these columns of the source.
  std::optional<SourceColumns> transposed;
  /// Not transposed: its columns are these of the source, else all of them.
  std::optional<SourceColumns> picked;
  /// The ranges hold MXFP4 codes, and this source the scales of the same rows (mxfp4.h); `dtype` is
  /// then that of the values. Neither transposed nor picked.
  std::optional<uint32_t> scales;
  /// Why the ranges do not make this tensor (alternating columns, say), or empty. Such a
  /// tensor can be planned, not converted; `ranges` is then empty.
  std::string obstacle;
  /// Added to every value: norms that are stored as gamma - 1 (zero_centred_norms.h).
  float shift = 0.0f;
  /// What values of the source are multiplied by (folded_factors.h); never of a transposed tensor.
  std::vector<RowFactor> factors;
  /// No source has it and all its values are 0 (Family::add_stock_biases); `ranges` is empty.
  bool zeros = false;

  uint64_t columns() const noexcept { return shape.empty() ? 1 : shape.back(); }
  /// Its rows lie in the sources, if not one behind the other; perhaps as codes of 8-bit floats.
  bool has_stored_rows() const noexcept { return !transposed && !picked && !scales; }
  /// And their values as they are.
  bool has_stored_values() const noexcept {
    return has_stored_rows() && !blocks && factors.empty();
  }
  uint64_t elements() const noexcept;
  /// As the values lie in the source: F8_E4M3 where they have scales, else `dtype`.
  DType stored_dtype() const noexcept { return blocks ? DType::kF8E4M3 : dtype; }
  uint64_t bytes() const noexcept;  // in the source; without the scales of blocks
};

/// Where a row of a final tensor comes from, which is not transposed; Error{kTensorShape} for one
/// behind the last.
struct SourceRow {
  uint32_t tensor = 0;  // index into the sources
  uint64_t row = 0;
  uint64_t available = 0;  // rows of the same range from here on, this one included
  uint64_t step = 1;       // of that range
};
SourceRow locate_row(const FinalTensor& tensor, uint64_t row);

/// Where a value of a final tensor comes from, transposed or not; errors as in locate_row.
struct SourceValue {
  uint32_t tensor = 0;
  uint64_t row = 0, column = 0;
};
SourceValue locate_value(const FinalTensor& tensor, uint64_t row, uint64_t column);

struct Inventory {
  std::vector<FinalTensor> tensors;  // in layer order: embedding, layers 0.., final norm, head
  std::vector<std::string>
      dropped;  // sources left out on purpose (rotary buffers, tied heads, towers, mtp)
  std::vector<std::string> warnings;
  uint64_t parameters = 0;  // of the sources that are kept
  bool tied_head = false;   // the embedding is the head too
};

/// Unquantized sources. `heads_equal`: whether a stored lm_head equals the embedding, where both
/// are stored although the config ties them; nullopt if the payloads were not compared (see
/// tied_head.h). `model_type`s with a family use its rules, others the generic ones of
/// format.md section 9 with a warning. Throws Error naming tensor and rule for what cannot be
/// placed.
Inventory build_inventory(const ModelConfig& config, std::span<const SourceTensor> sources,
                          std::optional<bool> heads_equal = std::nullopt);

/// The sources a bare config promises, for planning without headers: only where the family can tell
/// (llama, mistral, ...); throws kUnsupportedModel otherwise. `names`: those of the index, or
/// empty.
std::vector<SourceTensor> sources_from_config(const ModelConfig& config,
                                              std::span<const std::string> names);

}  // namespace jang
