#include "model/weights.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "arch/checkpoint_inventory.h"
#include "arch/spec_tensors.h"
#include "quant/active_kernels.h"

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

}  // namespace

WeightBinder::WeightBinder(const ModelDirectory& directory)
    : directory_(directory), used_(directory.checkpoint.tensors().size(), false) {}

void WeightBinder::use(const CheckpointTensor& tensor) {
  used_[static_cast<std::size_t>(&tensor - directory_.checkpoint.tensors().data())] = true;
}

const CheckpointTensor& WeightBinder::plain(const std::string& name,
                                            const std::vector<uint64_t>& shape) {
  const CheckpointTensor* tensor = directory_.checkpoint.find(name);
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

LinearWeight WeightBinder::linear(const LinearSpec& spec) {
  LinearWeight weight;
  weight.rows = spec.out;
  weight.columns = spec.in;
  const std::vector<uint64_t> shape = {static_cast<uint64_t>(spec.out),
                                       static_cast<uint64_t>(spec.in)};
  if (const QuantizedModule* module = directory_.find_module(spec.path)) {
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
    weight.matrix = kernels::AffineMatrix{payload(directory_, *module->weight),
                                          payload(directory_, *module->scales),
                                          payload(directory_, *module->biases),
                                          spec.out,
                                          spec.in,
                                          module->width.bits,
                                          module->width.group_size,
                                          float_type(directory_, *module->scales)};
  } else {
    const CheckpointTensor& tensor = plain(spec.path + ".weight", shape);
    weight.matrix = kernels::DenseMatrix{payload(directory_, tensor), spec.out, spec.in,
                                         float_type(directory_, tensor)};
  }
  if (spec.bias) weight.bias = vector(spec.path + ".bias", spec.out);
  return weight;
}

std::vector<float> WeightBinder::norm(const NormSpec& spec) {
  return vector(spec.path + ".weight", spec.size);
}

std::vector<float> WeightBinder::vector(const std::string& name, int64_t size) {
  const CheckpointTensor& tensor = plain(name, {static_cast<uint64_t>(size)});
  std::vector<float> values(static_cast<std::size_t>(size));
  active_kernels().to_float(payload(directory_, tensor), float_type(directory_, tensor), size,
                            values.data());
  return values;
}

void WeightBinder::check_all_used() const {
  const auto& tensors = directory_.checkpoint.tensors();
  if (std::all_of(used_.begin(), used_.end(), [](bool used) { return used; })) return;
  // Only raw checkpoints may hold tensors that the family drops: rotary buffers, a tied head.
  std::set<std::string, std::less<>> dropped;
  if (directory_.format == DirectoryFormat::kHf) {
    const Inventory inventory = inventory_of(directory_.config, directory_.checkpoint);
    dropped.insert(inventory.dropped.begin(), inventory.dropped.end());
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (used_[i] || dropped.contains(tensors[i].name)) continue;
    throw Error(ErrorCode::kExtraTensor, directory_.checkpoint.files()[tensors[i].file],
                tensors[i].name, "the architecture of config.json has no such tensor");
  }
}

}  // namespace jang
