// JANG v1 as the runtime wants it: a checkpoint of final tensors, most of them views of the files.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "arch/source_values.h"
#include "arch/stored_model.h"
#include "base/error.h"

namespace jang {
namespace {

class Presenter {
 public:
  explicit Presenter(const ModelDirectory& directory)
      : directory_(directory), model_(stored_model(directory)) {}

  void add_all() {
    for (std::size_t i = 0; i < model_.tensors.size(); ++i) {
      const FinalTensor& tensor = model_.inventory.tensors[i];
      // Biases of zeros are what other readers want; ours has no place for them.
      if (tensor.zeros) continue;
      if (model_.tensors[i].format) {
        add_module(tensor, model_.tensors[i]);
      } else {
        add_plain(tensor);
      }
    }
  }

  void move_into(ModelDirectory& directory) {
    directory.checkpoint = directory.checkpoint.seen_as(std::move(tensors_), std::move(made_));
    for (const auto& [path, width] : widths_) {
      QuantizedModule module;
      module.path = path;
      module.width = width;
      module.weight = directory.checkpoint.find(path + ".weight");
      module.scales = directory.checkpoint.find(path + ".scales");
      module.biases = directory.checkpoint.find(path + ".biases");
      module.shape = module.weight->shape;
      module.shape.back() = module.scales->shape.back() * static_cast<uint64_t>(width.group_size);
      directory.modules.push_back(std::move(module));
    }
  }

 private:
  void add_view(std::string name, DType dtype, std::vector<uint64_t> shape,
                const CheckpointTensor& whole, uint64_t offset, uint64_t bytes) {
    CheckpointTensor view;
    view.name = std::move(name);
    view.dtype = dtype;
    view.shape = std::move(shape);
    view.begin = whole.begin + offset;
    view.end = view.begin + bytes;
    view.file = whole.file;
    tensors_.push_back(std::move(view));
  }

  void add_made(std::string name, DType dtype, std::vector<uint64_t> shape, uint32_t source_file,
                AlignedBuffer<std::byte> memory) {
    CheckpointTensor made;
    made.name = std::move(name);
    made.dtype = dtype;
    made.shape = std::move(shape);
    made.end = memory.size();
    made.file = static_cast<uint32_t>(directory_.checkpoint.files().size() + made_.size());
    made_.push_back({directory_.checkpoint.files()[source_file], std::move(memory)});
    tensors_.push_back(std::move(made));
  }

  void add_module(const FinalTensor& tensor, const StoredTensor& stored) {
    const AffineFormat& format = *stored.format;
    const uint64_t columns = tensor.columns(), rows = tensor.elements() / columns;
    const uint64_t code_bytes = format.row_bytes(columns);
    const uint64_t group_bytes =
        format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
    std::vector<uint64_t> codes = tensor.shape, groups = tensor.shape;
    codes.back() = code_bytes / 4;
    groups.back() = format.row_groups(columns);
    widths_.emplace(tensor.path, WidthEntry{format.bits, format.group_size});
    const std::string& path = tensor.path;
    const StoredRows& first = stored.rows.front();
    const StoredMatrix& matrix = model_.matrices[first.matrix];
    const bool code_view = stored.rows.size() == 1 && matrix.format.bits == format.bits;
    const bool scale_view = stored.rows.size() == 1 && matrix.format.metadata == format.metadata;
    const bool bias_view = scale_view && !matrix.zero_points;
    if (code_view) {
      add_view(path + ".weight", DType::kU32, codes, *matrix.codes, first.first * code_bytes,
               rows * code_bytes);
    }
    if (scale_view) {
      add_view(path + ".scales", format.metadata, groups, *matrix.scales, first.first * group_bytes,
               rows * group_bytes);
    }
    if (bias_view) {
      add_view(path + ".biases", format.metadata, groups, *matrix.offsets,
               first.first * group_bytes, rows * group_bytes);
      if (code_view) return;
    }
    RowsScratch made;
    read_rows(directory_, model_, stored, 0, rows, made);
    const uint32_t file = matrix.codes->file;
    if (!code_view) add_made(path + ".weight", DType::kU32, codes, file, std::move(made.codes));
    if (!scale_view)
      add_made(path + ".scales", format.metadata, groups, file, std::move(made.scales));
    if (!bias_view)
      add_made(path + ".biases", format.metadata, groups, file, std::move(made.biases));
    drop_rows(directory_, model_, stored, 0, rows);
  }

  void add_plain(const FinalTensor& tensor) {
    const Checkpoint& checkpoint = directory_.checkpoint;
    if (tensor.ranges.empty() || tensor.elements() == 0) {
      add_made(tensor.name, tensor.dtype, tensor.shape, 0, AlignedBuffer<std::byte>());
      return;
    }
    const CheckpointTensor& source = checkpoint.tensors()[tensor.ranges.front().tensor];
    if (!tensor.transposed && tensor.ranges.size() == 1) {
      const uint64_t row_bytes = tensor.columns() * static_cast<uint64_t>(dtype_size(tensor.dtype));
      add_view(tensor.name, tensor.dtype, tensor.shape, source,
               tensor.ranges.front().row_begin * row_bytes, tensor.bytes());
      return;
    }
    AlignedBuffer<std::byte> memory(tensor.bytes());
    const uint64_t columns = tensor.columns();
    gather_values(checkpoint, tensor, 0, tensor.elements() / columns, 0, columns, memory.data());
    add_made(tensor.name, tensor.dtype, tensor.shape, source.file, std::move(memory));
  }

  const ModelDirectory& directory_;
  const StoredModel model_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<Checkpoint::MadeFile> made_;
  std::map<std::string, WidthEntry> widths_;
};

}  // namespace

void present_v1(ModelDirectory& directory) {
  JANG_ASSERT(directory.format == DirectoryFormat::kJangV1 && directory.modules.empty());
  Presenter presenter(directory);
  presenter.add_all();
  presenter.move_into(directory);
}

}  // namespace jang
