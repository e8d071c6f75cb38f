#include "convert/upgrade_changes.h"

#include <map>
#include <string_view>

#include "arch/final_names.h"
#include "arch/spec_tensors.h"

namespace jang {
namespace {

std::string width_text(int bits, int group_size) {
  return std::to_string(bits) + " bits with group size " + std::to_string(group_size);
}

class ChangeList {
 public:
  ChangeList(const ModelDirectory& directory, const StoredModel& model)
      : directory_(directory), model_(model) {
    for (const MapRepair& repair : directory.repairs) repairs_.emplace(repair.path, &repair);
  }

  void module(const FinalTensor& tensor, const StoredTensor& stored) {
    path_ = tensor.path;
    const AffineFormat& format = *stored.format;
    const StoredMatrix& first = model_.matrices[stored.rows.front().matrix];
    std::size_t matrices = 1;
    for (std::size_t i = 1; i < stored.rows.size(); ++i)
      matrices += stored.rows[i].matrix != stored.rows[i - 1].matrix;
    const std::string metadata(dtype_name(format.metadata));
    if (directory_.format == DirectoryFormat::kJangV1) {
      add("stored as weight, scales and biases: " + width_text(format.bits, format.group_size),
          "JANG v1 stored " + first.codes->name);
    } else {
      map_entry(format);
      if (matrices == 1 && first.codes->name != tensor.path + ".weight")
        add("renamed", "it was " + first.codes->name);
    }
    if (stored.products) {
      add("biases are -scale * zero point, in " + metadata,
          format.metadata == DType::kF32 ? "they are exact there, and not in F16"
                                         : "they are exact there");
    } else if (format.metadata != first.format.metadata) {
      add("scales and biases stored as " + metadata, "its parts had several types");
    }
    if (matrices > 1) {
      add(std::to_string(matrices) + " matrices joined", "they were " + tensor.source);
    } else if (stored.rows.size() > 1 ||
               stored.rows.front().rows != first.codes->bytes() / row_bytes(first)) {
      add("taken out of a fused matrix", "it was a part of " + first.codes->name);
    }
    if (stored.widened) {
      add("codes stored with " + std::to_string(format.bits) + " bits",
          "its matrices had several widths, and the widest holds them all");
    }
  }

  void plain(const FinalTensor& tensor, DType dtype) {
    path_ = tensor.name;
    if (tensor.zeros) {
      add("added, with zeros", "stock mlx-lm has this bias in every model of the type");
      return;
    }
    if (tensor.shift != 0.0f) {
      const std::string kept = dtype == tensor.dtype ? "" : ", stored as F32";
      std::string why = "the norm was stored as gamma - 1";
      if (directory_.format == DirectoryFormat::kJang) why += ", and nothing said so";
      if (dtype != tensor.dtype)
        why += "; " + std::string(dtype_name(tensor.dtype)) + " does not hold all of the sums";
      add("1 added" + kept, why);
    }
    if (tensor.ranges.empty()) return;
    const CheckpointTensor& source = directory_.checkpoint.tensors()[tensor.ranges.front().tensor];
    if (tensor.ranges.size() > 1 || tensor.transposed) {
      add("made of the rows of " + std::to_string(tensor.ranges.size()) + " places",
          "they were " + tensor.source);
      return;
    }
    if (source.name != tensor.name) add("renamed", "it was " + source.name);
    if (source.shape != tensor.shape) {
      add("shape " + shape_text(tensor.shape),
          "it was " + shape_text(source.shape) + ", the same bytes");
    }
  }

  void left_out(const std::string& name) {
    path_ = name;
    const ModelConfig& config = directory_.config;
    std::string why = "it follows from config.json";
    if (const std::string_view tower = tower_of(name); !tower.empty()) {
      why = "a part of " + std::string(tower) + "; only the language model is written";
    } else if (name.find("lm_head") != std::string::npos) {
      why = "it equals the embedding that config.json ties it to";
    } else if (is_dropped(config, name) && config.layers() > 0 &&
               layer_number(name) >= config.layers()) {
      why = "it lies behind the last layer of config.json";
    } else if (name.starts_with("mtp.") || name.find(".mtp.") != std::string::npos) {
      why = "multi-token prediction is not written";
    }
    add("left out", why);
  }

  void removed_entries() {
    for (const MapRepair& repair : directory_.repairs) {
      if (repair.width) continue;
      path_ = repair.path;
      add("entry removed from the map",
          "it said " + repair.stated + ", and there is no such quantized module");
    }
  }

  std::vector<UpgradeChange> take() { return std::move(changes_); }

 private:
  void add(std::string what, std::string why) {
    changes_.push_back({path_, std::move(what), std::move(why)});
  }

  static uint64_t row_bytes(const StoredMatrix& matrix) {
    return matrix.format.row_bytes(matrix.shape.back());
  }

  void map_entry(const AffineFormat& format) {
    const std::string found = width_text(format.bits, format.group_size);
    if (const auto repair = repairs_.find(path_); repair != repairs_.end()) {
      add("map: " + found,
          "the map had " + repair->second->stated + "; the shapes of the tensors allow only these");
    } else if (!directory_.widths.entries.contains(path_)) {
      add("map: entry with " + found, directory_.format == DirectoryFormat::kMlx
                                          ? "it had only the global pair"
                                          : "it stood in the manifest alone");
    }
  }

  const ModelDirectory& directory_;
  const StoredModel& model_;
  std::map<std::string_view, const MapRepair*> repairs_;
  std::vector<UpgradeChange> changes_;
  std::string path_;  // of what is being described
};

}  // namespace

std::vector<UpgradeChange> tensor_changes(const ModelDirectory& directory, const StoredModel& model,
                                          const Plan& plan) {
  ChangeList changes(directory, model);
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const FinalTensor& tensor = model.inventory.tensors[i];
    if (model.tensors[i].format) {
      changes.module(tensor, model.tensors[i]);
    } else {
      changes.plain(tensor, plan.tensors[i].dtype);
    }
  }
  for (const std::string& name : model.inventory.dropped) changes.left_out(name);
  changes.removed_entries();
  return changes.take();
}

void add_document_changes(const ModelDirectory& directory, std::vector<UpgradeChange>& changes) {
  std::string why;
  switch (directory.format) {
    case DirectoryFormat::kMlx:
      why = "it was a directory of stock MLX";
      break;
    case DirectoryFormat::kJangV1:
      why = "it was JANG v1";
      break;
    default:
      why = "they are written with every directory";
      break;
  }
  changes.push_back({{}, "index, config.json, jang_config.json and SHA256SUMS written", why});
}

}  // namespace jang
