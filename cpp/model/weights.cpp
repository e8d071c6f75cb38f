#include "model/weights.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "arch/block_scales.h"
#include "arch/checkpoint_inventory.h"
#include "arch/source_values.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "model/gathered_stack.h"
#include "quant/active_kernels.h"
#include "quant/affine_format.h"
#include "quant/kernel_types.h"

namespace jang {
namespace {

kernels::FloatType float_type(const ModelDirectory& directory, const CheckpointTensor& tensor) {
  switch (tensor.dtype) {
    case DType::kF32:
      return kernels::FloatType::kF32;
    case DType::kF16:
      return kernels::FloatType::kF16;
    case DType::kBF16:
      return kernels::FloatType::kBF16;
    default:
      throw Error(ErrorCode::kUnusableDtype, directory.checkpoint.files()[tensor.file], tensor.name,
                  "expected F32, F16 or BF16, found " + std::string(dtype_name(tensor.dtype)));
  }
}

const uint8_t* payload(const ModelDirectory& directory, const CheckpointTensor& tensor) {
  return reinterpret_cast<const uint8_t*>(directory.checkpoint.data(tensor).data());
}

/// Matrix `index` of a module, whose matrices lie one behind the other.
kernels::AffineMatrix affine_matrix(const ModelDirectory& directory, const QuantizedModule& module,
                                    int64_t rows, int64_t columns, int64_t index) {
  const AffineFormat format{module.width.bits, module.width.group_size, module.scales->dtype};
  const auto width = static_cast<uint64_t>(columns);
  const auto first = static_cast<uint64_t>(index * rows);
  const uint64_t codes = first * format.row_bytes(width);
  const uint64_t groups =
      first * format.row_groups(width) * static_cast<uint64_t>(dtype_size(format.metadata));
  return {payload(directory, *module.weight) + codes,
          payload(directory, *module.scales) + groups,
          payload(directory, *module.biases) + groups,
          rows,
          columns,
          format.bits,
          format.group_size,
          float_type(directory, *module.scales)};
}

/// `rows` rows of a matrix from `first` on.
kernels::AffineMatrix rows_of(const kernels::AffineMatrix& whole, int64_t first, int64_t rows) {
  const int64_t size = whole.metadata == kernels::FloatType::kF32 ? 4 : 2;
  kernels::AffineMatrix part = whole;
  const int64_t groups = first * (whole.columns / whole.group) * size;
  part.codes += first * (whole.columns / 8) * whole.bits;
  part.scales += groups;
  part.biases += groups;
  part.rows = rows;
  return part;
}

kernels::DenseMatrix rows_of(const kernels::DenseMatrix& whole, int64_t first, int64_t rows) {
  const int64_t size = whole.type == kernels::FloatType::kF32 ? 4 : 2;
  return {whole.data + first * whole.columns * size, rows, whole.columns, whole.type};
}

}  // namespace

LinearWeight rows_of(const LinearWeight& whole, int64_t first, int64_t rows) {
  LinearWeight part;
  part.path = whole.path;
  part.memory = whole.memory;
  part.rows = rows;
  part.columns = whole.columns;
  part.matrix =
      std::visit([&](const auto& matrix) -> MatrixWeight { return rows_of(matrix, first, rows); },
                 whole.matrix);
  const auto slice = [&](const std::vector<float>& all, std::vector<float>& out) {
    if (!all.empty()) out.assign(all.begin() + first, all.begin() + first + rows);
  };
  slice(whole.bias, part.bias);
  slice(whole.factors, part.factors);
  return part;
}

uint64_t stored_bytes(const LinearWeight& weight) {
  const auto size = [](kernels::FloatType type) {
    return type == kernels::FloatType::kF32 ? int64_t{4} : int64_t{2};
  };
  if (const auto* dense = std::get_if<kernels::DenseMatrix>(&weight.matrix))
    return static_cast<uint64_t>(dense->rows * dense->columns * size(dense->type));
  const auto& affine = std::get<kernels::AffineMatrix>(weight.matrix);
  return static_cast<uint64_t>(affine.rows *
                               (affine.columns / 8 * affine.bits +
                                2 * (affine.columns / affine.group) * size(affine.metadata)));
}

WeightBinder::WeightBinder(const ModelDirectory& directory, ThreadPool& pool)
    : directory_(directory),
      factors_(directory_factors(directory)),
      pool_(pool),
      widened_(directory, pool),
      used_(directory.checkpoint.tensors().size(), false) {}

void WeightBinder::use(const CheckpointTensor& tensor) {
  used_[static_cast<std::size_t>(&tensor - directory_.checkpoint.tensors().data())] = true;
  bound_.push_back(&tensor);
}

const Inventory& WeightBinder::inventory() const {
  if (!inventory_) inventory_ = inventory_of(directory_.config, directory_.checkpoint);
  return *inventory_;
}

const CheckpointTensor* WeightBinder::find(const std::string& name) {
  const CheckpointTensor* tensor = directory_.find_tensor(name);
  if (tensor != nullptr || directory_.format != DirectoryFormat::kHf) return tensor;
  for (const FinalTensor& final : inventory().tensors) {
    if (final.name != name || final.ranges.size() != 1 || !final.has_stored_rows()) continue;
    const CheckpointTensor& source = directory_.checkpoint.tensors()[final.ranges.front().tensor];
    if (source.elements() == final.elements()) return &source;
  }
  return nullptr;
}

const CheckpointTensor& WeightBinder::plain(const std::string& name,
                                            const std::vector<uint64_t>& shape) {
  const CheckpointTensor* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::kMissingTensor, directory_.path.filename().string(), name,
                "the architecture needs it with shape " + shape_text(shape) + ", no file has it");
  }
  if (tensor->shape != shape) {
    throw Error(ErrorCode::kTensorShape, directory_.checkpoint.files()[tensor->file], name,
                "expected shape " + shape_text(shape) + " by config.json, found " +
                    shape_text(tensor->shape));
  }
  use(*tensor);
  return *tensor;
}

const QuantizedModule* WeightBinder::module(const std::string& path,
                                            const std::vector<uint64_t>& shape) {
  const QuantizedModule* module = directory_.find_module(path);
  if (module == nullptr) return nullptr;
  if (module->shape != shape) {
    throw Error(ErrorCode::kTensorShape, directory_.checkpoint.files()[module->weight->file],
                module->weight->name,
                "expected a matrix " + shape_text(shape) + " by config.json, found " +
                    shape_text(module->shape) + " at " + std::to_string(module->width.bits) +
                    " bits");
  }
  use(*module->weight);
  use(*module->scales);
  use(*module->biases);
  any_quantized_ = true;
  return module;
}

LinearWeight WeightBinder::linear(const LinearSpec& spec) {
  LinearWeight weight;
  weight.path = spec.path;
  weight.rows = spec.out;
  weight.columns = spec.in;
  const std::vector<uint64_t> shape = {static_cast<uint64_t>(spec.out),
                                       static_cast<uint64_t>(spec.in)};
  if (const auto replaced = replaced_.find(spec.path); replaced != replaced_.end()) {
    JANG_ASSERT(replaced->second.rows == spec.out && replaced->second.columns == spec.in);
    weight.matrix = replaced->second;  // as it is written, factors included
  } else {
    if (const QuantizedModule* quantized = module(spec.path, shape)) {
      weight.matrix = affine_matrix(directory_, *quantized, spec.out, spec.in, 0);
    } else {
      bind_dense(spec.path + ".weight", shape, weight);
    }
    if (const auto it = factors_.find(spec.path + ".weight"); it != factors_.end())
      weight.factors = factor_of_rows(it->second, spec.out);
  }
  weight.bias = bias(spec);
  return weight;
}

void WeightBinder::bind_rows(const CheckpointTensor& tensor, uint64_t row, LinearWeight& weight) {
  use(tensor);
  const auto first = row * static_cast<uint64_t>(weight.columns);
  if (tensor.dtype == DType::kF8E4M3) {
    use(*directory_.checkpoint.find(scales_name(tensor.name)));
    const WidenedWeights::Values values = widened_.of(tensor);
    weight.matrix = kernels::DenseMatrix{reinterpret_cast<const uint8_t*>(values->data() + first),
                                         weight.rows, weight.columns, kernels::FloatType::kF32};
    weight.memory = values;
    return;
  }
  const auto size = static_cast<uint64_t>(dtype_size(tensor.dtype));
  weight.matrix = kernels::DenseMatrix{payload(directory_, tensor) + first * size, weight.rows,
                                       weight.columns, float_type(directory_, tensor)};
}

void WeightBinder::bind_dense(const std::string& name, const std::vector<uint64_t>& shape,
                              LinearWeight& weight) {
  if (directory_.format != DirectoryFormat::kHf || find(name) != nullptr) {
    bind_rows(plain(name, shape), 0, weight);
    return;
  }
  // A plain checkpoint may hold it as some rows of a fused tensor, which lie together.
  const SourceRow at = locate_row(final_tensor(name, shape), 0);
  JANG_ASSERT(at.available >= shape[0]);
  bind_rows(directory_.checkpoint.tensors()[at.tensor], at.row, weight);
}

std::vector<float> WeightBinder::bias(const LinearSpec& spec) {
  if (!spec.bias) return {};
  const std::string name = spec.path + ".bias";
  std::vector<float> bias = values(name, {static_cast<uint64_t>(spec.out)});
  const auto it = factors_.find(name);
  if (it == factors_.end()) return bias;
  const std::vector<float> factors = factor_of_rows(it->second, spec.out);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] *= factors[i];
  return bias;
}

std::vector<LinearWeight> WeightBinder::stack(const StackSpec& spec) {
  std::vector<LinearWeight> matrices(static_cast<std::size_t>(spec.count));
  for (LinearWeight& matrix : matrices) {
    matrix.rows = spec.out;
    matrix.columns = spec.in;
  }
  bind_stack(spec, matrices);
  if (spec.bias) add_biases(spec, matrices);
  return matrices;
}

void WeightBinder::add_biases(const StackSpec& spec, std::vector<LinearWeight>& matrices) {
  const std::vector<float> all = values(
      spec.path + ".bias", {static_cast<uint64_t>(spec.count), static_cast<uint64_t>(spec.out)});
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto begin = all.begin() + static_cast<int64_t>(i) * spec.out;
    matrices[i].bias.assign(begin, begin + spec.out);
  }
}

void WeightBinder::bind_stack(const StackSpec& spec, std::vector<LinearWeight>& matrices) {
  const std::vector<uint64_t> shape = {static_cast<uint64_t>(spec.count),
                                       static_cast<uint64_t>(spec.out),
                                       static_cast<uint64_t>(spec.in)};
  if (const auto replaced = replaced_.find(spec.path); replaced != replaced_.end()) {
    const kernels::AffineMatrix& whole = replaced->second;
    JANG_ASSERT(whole.rows == spec.count * spec.out && whole.columns == spec.in);
    for (int64_t i = 0; i < spec.count; ++i)
      matrices[static_cast<std::size_t>(i)].matrix = rows_of(whole, i * spec.out, spec.out);
    return;
  }
  if (const QuantizedModule* quantized = module(spec.path, shape)) {
    for (int64_t i = 0; i < spec.count; ++i) {
      matrices[static_cast<std::size_t>(i)].matrix =
          affine_matrix(directory_, *quantized, spec.out, spec.in, i);
    }
    return;
  }
  const std::string name = spec.path + ".weight";
  const auto out = static_cast<uint64_t>(spec.out);
  if (directory_.format != DirectoryFormat::kHf || directory_.checkpoint.find(name) != nullptr) {
    const CheckpointTensor& tensor = plain(name, shape);
    for (std::size_t i = 0; i < matrices.size(); ++i) bind_rows(tensor, i * out, matrices[i]);
    return;
  }
  const FinalTensor& final = final_tensor(name, shape);
  if (!final.has_stored_rows()) {
    bind_gathered(spec.path, final, matrices);
    return;
  }
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const SourceRow at = locate_row(final, i * out);
    // Every layout that split_tensor knows leaves the rows of an expert together.
    JANG_ASSERT(at.available >= out && at.step == 1);
    bind_rows(directory_.checkpoint.tensors()[at.tensor], at.row, matrices[i]);
  }
}

void WeightBinder::bind_gathered(const std::string& path, const FinalTensor& tensor,
                                 std::vector<LinearWeight>& matrices) {
  use_sources(tensor);
  if (tensor.scales) any_quantized_ = true;
  std::weak_ptr<const AlignedBuffer<std::byte>>& before = gathered_[path];
  SharedMemory memory = before.lock();
  if (memory == nullptr) before = memory = gather_stack(directory_.checkpoint, tensor, pool_);
  const std::vector<MatrixWeight> gathered = gathered_matrices(tensor, *memory);
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    matrices[i].matrix = gathered[i];
    matrices[i].memory = memory;
  }
}

void WeightBinder::use_sources(const FinalTensor& tensor) {
  const std::vector<CheckpointTensor>& sources = directory_.checkpoint.tensors();
  uint32_t last = UINT32_MAX;
  for (const RowRange& range : tensor.ranges) {
    if (range.tensor != last) use(sources[range.tensor]);
    last = range.tensor;
  }
  if (tensor.scales) use(sources[*tensor.scales]);
}

std::optional<std::vector<LinearWeight>> WeightBinder::transposed_stack(const StackSpec& spec) {
  const std::string name = spec.path + ".weight";
  if (directory_.format != DirectoryFormat::kHf || directory_.checkpoint.find(name) != nullptr ||
      replaced_.contains(spec.path)) {
    return std::nullopt;
  }
  const FinalTensor& final =
      final_tensor(name, {static_cast<uint64_t>(spec.count), static_cast<uint64_t>(spec.out),
                          static_cast<uint64_t>(spec.in)});
  if (!final.transposed) return std::nullopt;
  std::vector<LinearWeight> matrices;
  for (const RowRange& range : final.ranges) {
    const CheckpointTensor& tensor = directory_.checkpoint.tensors()[range.tensor];
    JANG_ASSERT(tensor.shape.back() == static_cast<uint64_t>(spec.out) &&
                range.rows == final.columns());
    LinearWeight& matrix = matrices.emplace_back();
    matrix.rows = spec.in;
    matrix.columns = spec.out;
    bind_rows(tensor, range.row_begin, matrix);
  }
  return matrices;
}

const FinalTensor& WeightBinder::final_tensor(const std::string& name,
                                              const std::vector<uint64_t>& shape) {
  for (const FinalTensor& tensor : inventory().tensors) {
    if (tensor.name != name) continue;
    // The inventory has been held against the same spec.
    JANG_ASSERT(tensor.shape == shape && tensor.obstacle.empty());
    return tensor;
  }
  throw Error(ErrorCode::kMissingTensor, directory_.path.filename().string(), name,
              "the architecture needs it with shape " + shape_text(shape) + ", no file has it");
}

std::vector<float> WeightBinder::norm(const NormSpec& spec) {
  const auto size = static_cast<uint64_t>(spec.size);
  if (spec.heads == 0) return values(spec.path + ".weight", {size});
  return values(spec.path + ".weight", {static_cast<uint64_t>(spec.heads), size});
}

std::vector<float> WeightBinder::norm_bias(const NormSpec& spec) {
  if (!spec.bias) return {};
  return values(spec.path + ".bias", {static_cast<uint64_t>(spec.size)});
}

std::vector<float> WeightBinder::values(const std::string& name,
                                        const std::vector<uint64_t>& shape) {
  if (directory_.format == DirectoryFormat::kHf && find(name) == nullptr) {
    const FinalTensor& tensor = final_tensor(name, shape);
    if (tensor.picked) return picked_values(tensor);
  }
  const CheckpointTensor& tensor = plain(name, shape);
  std::vector<float> out(tensor.elements());
  active_kernels().to_float(payload(directory_, tensor), float_type(directory_, tensor),
                            static_cast<int64_t>(out.size()), out.data());
  return out;
}

std::vector<float> WeightBinder::picked_values(const FinalTensor& tensor) {
  use_sources(tensor);
  const uint64_t rows = tensor.elements() / tensor.columns();
  AlignedBuffer<std::byte> stored(tensor.bytes());
  gather_values(directory_.checkpoint, tensor, 0, rows, 0, tensor.columns(), stored.data());
  std::vector<float> out(tensor.elements());
  active_kernels().to_float(reinterpret_cast<const uint8_t*>(stored.data()),
                            kernel_type(tensor.dtype), static_cast<int64_t>(out.size()),
                            out.data());
  return out;
}

std::vector<float> WeightBinder::convolution(const std::string& path, int64_t channels,
                                             int64_t taps) {
  const std::string name = path + ".weight";
  const auto c = static_cast<uint64_t>(channels), k = static_cast<uint64_t>(taps);
  const CheckpointTensor* found = find(name);
  const bool raw = found != nullptr && found->shape == std::vector<uint64_t>{c, 1, k};
  const CheckpointTensor& tensor =
      plain(name, raw ? std::vector<uint64_t>{c, 1, k} : std::vector<uint64_t>{c, k, 1});
  std::vector<float> stored(static_cast<std::size_t>(channels * taps)), values(stored.size());
  active_kernels().to_float(payload(directory_, tensor), float_type(directory_, tensor),
                            channels * taps, stored.data());
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      values[static_cast<std::size_t>(tap * channels + channel)] =
          stored[static_cast<std::size_t>(channel * taps + tap)];
    }
  }
  return values;
}

void WeightBinder::check_all_used() const {
  const auto& tensors = directory_.checkpoint.tensors();
  if (std::all_of(used_.begin(), used_.end(), [](bool used) { return used; })) return;
  // Only raw checkpoints may hold tensors that the family drops: rotary buffers, a tied head.
  std::set<std::string, std::less<>> dropped;
  if (directory_.format == DirectoryFormat::kHf) {
    dropped.insert(inventory().dropped.begin(), inventory().dropped.end());
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (used_[i] || dropped.contains(tensors[i].name)) continue;
    throw Error(ErrorCode::kExtraTensor, directory_.checkpoint.files()[tensors[i].file],
                tensors[i].name, "the architecture of config.json has no such tensor");
  }
}

}  // namespace jang
