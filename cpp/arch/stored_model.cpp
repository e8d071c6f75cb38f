// Three steps: what lies there becomes sources of the inventory, the inventory places them, and
// ranges of rows become rows of matrices.
#include "arch/stored_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "arch/family.h"
#include "arch/final_names.h"
#include "arch/source_values.h"
#include "arch/spec_tensors.h"
#include "arch/v1_modules.h"
#include "arch/zero_centred_norms.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/float16.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr std::string_view kWeight = ".weight";

uint64_t flat_rows(const std::vector<uint64_t>& shape) {
  uint64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

/// A source of the inventory: matrices one behind the other, or a plain tensor.
struct Source {
  SourceTensor tensor;
  std::vector<uint32_t> matrices;
  uint32_t plain = 0;  // index into checkpoint.tensors(), if there are no matrices
};

float value_at(std::span<const std::byte> payload, DType dtype, uint64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, payload.data() + index * sizeof value, sizeof value);
    return value;
  }
  uint16_t word;
  std::memcpy(&word, payload.data() + index * sizeof word, sizeof word);
  return dtype == DType::kF16 ? half_to_float(word) : bf16_to_float(word);
}

void put_value(std::byte* out, DType dtype, uint64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(out + index * sizeof value, &value, sizeof value);
    return;
  }
  const uint16_t word = dtype == DType::kF16 ? float_to_half(value) : float_to_bf16(value);
  std::memcpy(out + index * sizeof word, &word, sizeof word);
}

class ModelBuilder {
 public:
  explicit ModelBuilder(const ModelDirectory& directory)
      : directory_(directory), checkpoint_(directory.checkpoint) {}

  StoredModel build() {
    collect();
    rename_to_family();
    std::vector<SourceTensor> tensors;
    tensors.reserve(sources_.size());
    for (const Source& source : sources_) tensors.push_back(source.tensor);
    place(tensors);
    for (FinalTensor& tensor : model_.inventory.tensors) {
      set_shift(tensor);
      model_.tensors.push_back(bind(tensor));
    }
    return std::move(model_);
  }

 private:
  void collect() {
    if (directory_.format == DirectoryFormat::kJangV1) {
      const V1Contents contents = read_v1_modules(directory_);
      for (const V1Module& module : contents.modules) {
        add_matrix(module.source, {{module.width.bits, module.width.group_size, DType::kF16},
                                   module.shape,
                                   module.codes,
                                   module.scales,
                                   module.offsets,
                                   module.zero_points});
      }
      for (const CheckpointTensor* tensor : contents.plain) add_plain(*tensor);
    } else {
      std::set<const CheckpointTensor*> used;
      for (const QuantizedModule& module : directory_.modules) {
        used.insert({module.weight, module.scales, module.biases});
        add_matrix(module.weight->name,
                   {{module.width.bits, module.width.group_size, module.scales->dtype},
                    module.shape,
                    module.weight,
                    module.scales,
                    module.biases,
                    false});
      }
      for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
        if (!used.contains(&tensor)) add_plain(tensor);
      }
    }
    std::sort(sources_.begin(), sources_.end(),
              [](const Source& a, const Source& b) { return a.tensor.name < b.tensor.name; });
  }

  void add_matrix(const std::string& name, StoredMatrix matrix) {
    Source source;
    source.tensor = {name, matrix.format.metadata, matrix.shape};
    source.matrices.push_back(static_cast<uint32_t>(model_.matrices.size()));
    sources_.push_back(std::move(source));
    model_.matrices.push_back(std::move(matrix));
  }

  void add_plain(const CheckpointTensor& tensor) {
    Source source;
    source.tensor = {tensor.name, tensor.dtype, tensor.shape};
    source.plain = static_cast<uint32_t>(&tensor - checkpoint_.tensors().data());
    sources_.push_back(std::move(source));
  }

  Source* find(std::string_view name) {
    const auto at = std::lower_bound(
        sources_.begin(), sources_.end(), name,
        [](const Source& source, std::string_view wanted) { return source.tensor.name < wanted; });
    return at != sources_.end() && at->tensor.name == name ? &*at : nullptr;
  }

  /// Other writers split phi3's and glm4's gate_up_proj, and give lfm2's feed-forward the names of
  /// most families: both are undone, since the written model has its family's names.
  void rename_to_family() {
    if (find_family(directory_.config.model_type()) == nullptr) return;
    const ModelSpec spec = require_family(directory_.config).spec(directory_.config);
    const auto stored = [&](const std::string& path) { return find(path + std::string(kWeight)); };
    std::set<std::string> gone;
    std::map<std::string, std::string> renamed;
    const auto rename = [&](const std::string& from, const std::string& to) {
      renamed.emplace(from + std::string(kWeight), to + std::string(kWeight));
    };
    for (const LayerSpec& layer : spec.layers) {
      const auto* mlp =
          layer.feed_forward ? std::get_if<GatedMlpSpec>(&*layer.feed_forward) : nullptr;
      if (mlp == nullptr) continue;
      const std::string& first = mlp->gate_up ? mlp->gate_up->path : mlp->gate.path;
      const std::string base = first.substr(0, first.rfind('.') + 1);
      if (stored(first) != nullptr || stored(base + "gate_proj") == nullptr) continue;
      if (!mlp->gate_up) {
        rename(base + "gate_proj", mlp->gate.path);
        rename(base + "up_proj", mlp->up.path);
        rename(base + "down_proj", mlp->down.path);
      } else if (join(*stored(base + "gate_proj"), stored(base + "up_proj"))) {
        gone.insert(base + "up_proj" + std::string(kWeight));
        rename(base + "gate_proj", first);
      }
    }
    std::erase_if(sources_,
                  [&](const Source& source) { return gone.contains(source.tensor.name); });
    for (Source& source : sources_) {
      const auto to = renamed.find(source.tensor.name);
      if (to != renamed.end()) source.tensor.name = to->second;
    }
  }

  /// Rows of `up` behind those of `gate`; false if they do not fit.
  bool join(Source& gate, const Source* up) {
    if (up == nullptr || gate.matrices.empty() || up->matrices.empty()) return false;
    auto& rows = gate.tensor.shape;
    const auto& more = up->tensor.shape;
    if (rows.size() != 2 || more.size() != 2 || rows[1] != more[1]) return false;
    rows[0] += more[0];
    gate.matrices.insert(gate.matrices.end(), up->matrices.begin(), up->matrices.end());
    return true;
  }

  void place(const std::vector<SourceTensor>& tensors) {
    try {
      model_.inventory = build_inventory(directory_.config, tensors, heads_equal());
    } catch (const Error& error) {
      if (!error.file().empty() || error.tensor().empty()) throw;
      throw Error(error.code(), file_of(error.tensor()), error.tensor(), error.message(),
                  error.hint());
    }
  }

  std::string file_of(const std::string& source) const {
    for (const Source& known : sources_) {
      if (known.tensor.name == source) return file_of(known);
    }
    const std::vector<std::string>& files = checkpoint_.files();
    return files.size() == 1 ? files.front() : directory_.path.filename().string();
  }
  const std::string& file_of(const Source& source) const {
    const CheckpointTensor& tensor = source.matrices.empty()
                                         ? checkpoint_.tensors()[source.plain]
                                         : *model_.matrices[source.matrices.front()].codes;
    return checkpoint_.files()[tensor.file];
  }

  bool same_bytes(const CheckpointTensor& a, const CheckpointTensor& b) const {
    const auto one = checkpoint_.data(a), other = checkpoint_.data(b);
    return a.dtype == b.dtype && one.size() == other.size() &&
           std::memcmp(one.data(), other.data(), one.size()) == 0;
  }

  /// Whether a head that is stored although the config ties it equals the embedding.
  std::optional<bool> heads_equal() const {
    if (!directory_.config.tied_embeddings()) return std::nullopt;
    const Source *embedding = nullptr, *head = nullptr;
    for (const Source& source : sources_) {
      const std::string& name = source.tensor.name;
      if (name.ends_with("embed_tokens.weight") || name.ends_with("backbone.embeddings.weight")) {
        embedding = &source;
      } else if (name == "lm_head.weight" || name.ends_with(".lm_head.weight")) {
        head = &source;
      }
    }
    if (embedding == nullptr || head == nullptr) return std::nullopt;
    if (embedding->tensor.shape != head->tensor.shape ||
        embedding->matrices.size() != head->matrices.size()) {
      return false;
    }
    if (head->matrices.empty()) {
      return same_bytes(checkpoint_.tensors()[embedding->plain],
                        checkpoint_.tensors()[head->plain]);
    }
    const StoredMatrix& a = model_.matrices[embedding->matrices.front()];
    const StoredMatrix& b = model_.matrices[head->matrices.front()];
    return a.format == b.format && a.zero_points == b.zero_points &&
           same_bytes(*a.codes, *b.codes) && same_bytes(*a.scales, *b.scales) &&
           same_bytes(*a.offsets, *b.offsets);
  }

  /// What the inventory concludes from the convolutions, the directory may have said.
  void set_shift(FinalTensor& tensor) const {
    if (tensor.shape.size() != 1 || !tensor.name.ends_with(kWeight)) return;
    const std::string_view path =
        std::string_view(tensor.name).substr(0, tensor.name.size() - kWeight.size());
    if (is_zero_centred(directory_.config.model_type(), path))
      tensor.shift = directory_.raw_norms ? 1.0f : 0.0f;
  }

  [[noreturn]] void refuse(const FinalTensor& tensor, const Source& source,
                           const std::string& message) const {
    throw Error(ErrorCode::kUnsupportedFormat, file_of(source), source.tensor.name,
                "cannot become " + tensor.name + ": " + message);
  }

  StoredTensor bind(FinalTensor& tensor) const {
    StoredTensor stored;
    if (tensor.zeros) return stored;
    if (!tensor.obstacle.empty()) {
      throw Error(ErrorCode::kUnsupportedModel, directory_.config.file(), tensor.source,
                  "cannot be written yet: " + tensor.obstacle);
    }
    if (tensor.ranges.empty()) return stored;
    const Source& first = sources_[tensor.ranges.front().tensor];
    const bool quantized = !first.matrices.empty();
    for (RowRange& range : tensor.ranges) {
      const Source& source = sources_[range.tensor];
      if (source.matrices.empty() == quantized) {
        refuse(tensor, source, "parts of it are quantized and others are not");
      }
      if (!quantized) {
        range.tensor = source.plain;
        continue;
      }
      if (tensor.transposed) {
        refuse(tensor, source, "its groups would lie across other rows than they were made for");
      }
      add_rows(source, range, stored.rows);
    }
    if (!quantized) return stored;
    set_format(tensor, first, stored);
    return stored;
  }

  /// The matrices' rows that are rows of their source, which may be joined of several.
  void add_rows(const Source& source, const RowRange& range, std::vector<StoredRows>& out) const {
    uint64_t begin = range.row_begin, left = range.rows;
    for (const uint32_t index : source.matrices) {
      const uint64_t rows = flat_rows(model_.matrices[index].shape);
      if (begin >= rows) {
        begin -= rows;
        continue;
      }
      const uint64_t count = std::min(left, rows - begin);
      if (count == 0) break;
      // Experts of a stack that lie one behind the other are one run.
      if (!out.empty() && out.back().matrix == index &&
          out.back().first + out.back().rows == begin) {
        out.back().rows += count;
      } else {
        out.push_back({index, begin, count});
      }
      begin = 0;
      left -= count;
    }
    JANG_ASSERT(left == 0);
  }

  void set_format(const FinalTensor& tensor, const Source& first, StoredTensor& stored) const {
    AffineFormat format = model_.matrices[stored.rows.front().matrix].format;
    for (const StoredRows& part : stored.rows) {
      const StoredMatrix& matrix = model_.matrices[part.matrix];
      if (matrix.format.group_size != format.group_size) {
        refuse(tensor, first,
               "parts of it have groups of " + std::to_string(format.group_size) + " and of " +
                   std::to_string(matrix.format.group_size));
      }
      format.bits = std::max(format.bits, matrix.format.bits);
      if (matrix.format.metadata != format.metadata) format.metadata = DType::kF32;
    }
    std::set<uint32_t> seen;
    for (const StoredRows& part : stored.rows) {
      const StoredMatrix& matrix = model_.matrices[part.matrix];
      stored.widened |= matrix.format.bits != format.bits;
      stored.products |= matrix.zero_points;
      if (matrix.zero_points && format.metadata != DType::kF32 && seen.insert(part.matrix).second &&
          !products_fit(matrix, format.metadata)) {
        format.metadata = DType::kF32;
      }
    }
    stored.format = format;
  }

  bool products_fit(const StoredMatrix& matrix, DType dtype) const {
    const auto scales = checkpoint_.data(*matrix.scales);
    const auto zeros = checkpoint_.data(*matrix.offsets);
    const uint64_t count = matrix.scales->elements();
    for (uint64_t i = 0; i < count; ++i) {
      const float product =
          -value_at(scales, matrix.scales->dtype, i) * value_at(zeros, matrix.offsets->dtype, i);
      const float stored = dtype == DType::kF16 ? half_to_float(float_to_half(product))
                                                : bf16_to_float(float_to_bf16(product));
      // What is no number stays none in either; `verify` and the writer say so.
      if (stored != product && product == product) return false;
    }
    return true;
  }

  const ModelDirectory& directory_;
  const Checkpoint& checkpoint_;
  std::vector<Source> sources_;
  StoredModel model_;
};

/// Calls visit(matrix, first row in it, rows, row of the tensor from `first` on) for the pieces.
template <typename Visit>
void for_each_piece(const StoredModel& model, const StoredTensor& tensor, uint64_t first,
                    uint64_t count, Visit&& visit) {
  uint64_t begin = 0;
  for (const StoredRows& part : tensor.rows) {
    const uint64_t from = std::max(first, begin);
    const uint64_t to = std::min(first + count, begin + part.rows);
    if (from < to)
      visit(model.matrices[part.matrix], part.first + (from - begin), to - from, from - first);
    begin += part.rows;
  }
}

}  // namespace

StoredModel stored_model(const ModelDirectory& directory) {
  return ModelBuilder(directory).build();
}

AffinePanel read_rows(const ModelDirectory& directory, const StoredModel& model,
                      const StoredTensor& tensor, uint64_t first, uint64_t count,
                      RowsScratch& scratch) {
  const AffineFormat& format = *tensor.format;
  const uint64_t columns = model.matrices[tensor.rows.front().matrix].shape.back();
  const uint64_t groups = format.row_groups(columns);
  const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
  scratch.codes.reserve_discarding(count * format.row_bytes(columns));
  scratch.scales.reserve_discarding(count * groups * size);
  scratch.biases.reserve_discarding(count * groups * size);
  const Checkpoint& checkpoint = directory.checkpoint;
  for_each_piece(
      model, tensor, first, count,
      [&](const StoredMatrix& matrix, uint64_t row, uint64_t rows, uint64_t at) {
        const uint64_t row_bytes = matrix.format.row_bytes(columns);
        const std::byte* codes = checkpoint.data(*matrix.codes).data() + row * row_bytes;
        std::byte* out = scratch.codes.data() + at * format.row_bytes(columns);
        if (matrix.format.bits == format.bits) {
          std::memcpy(out, codes, rows * row_bytes);
        } else {
          const uint64_t weights = rows * columns;
          scratch.unpacked.reserve_discarding(weights);
          const std::span<uint8_t> unpacked = scratch.unpacked.span().first(weights);
          unpack_codes(codes, rows, columns, matrix.format.bits, unpacked);
          pack_codes(unpacked, columns, format.bits, out);
        }
        const auto scales = checkpoint.data(*matrix.scales);
        const auto offsets = checkpoint.data(*matrix.offsets);
        const uint64_t from = row * groups, to = at * groups, n = rows * groups;
        const bool same = matrix.format.metadata == format.metadata;
        if (same)
          std::memcpy(scratch.scales.data() + to * size, scales.data() + from * size, n * size);
        if (same && !matrix.zero_points) {
          std::memcpy(scratch.biases.data() + to * size, offsets.data() + from * size, n * size);
          return;
        }
        for (uint64_t i = 0; i < n; ++i) {
          const float scale = value_at(scales, matrix.format.metadata, from + i);
          const float offset = value_at(offsets, matrix.format.metadata, from + i);
          if (!same) put_value(scratch.scales.data(), format.metadata, to + i, scale);
          put_value(scratch.biases.data(), format.metadata, to + i,
                    matrix.zero_points ? -scale * offset : offset);
        }
      });
  return {scratch.codes.data(), scratch.scales.data(), scratch.biases.data()};
}

void drop_rows(const ModelDirectory& directory, const StoredModel& model,
               const StoredTensor& tensor, uint64_t first, uint64_t count) {
  const auto drop = [&](const CheckpointTensor& part, uint64_t all, uint64_t row, uint64_t rows) {
    const uint64_t bytes = part.bytes() / all;
    directory.checkpoint.mapping(part).drop(part.begin + row * bytes, rows * bytes);
  };
  for_each_piece(model, tensor, first, count,
                 [&](const StoredMatrix& matrix, uint64_t row, uint64_t rows, uint64_t) {
                   const uint64_t all = flat_rows(matrix.shape);
                   drop(*matrix.codes, all, row, rows);
                   drop(*matrix.scales, all, row, rows);
                   drop(*matrix.offsets, all, row, rows);
                 });
}

}  // namespace jang
