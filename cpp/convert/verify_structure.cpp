// What headers, names and the index say, without looking at payloads.
#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>
#include <system_error>

#include "arch/checkpoint_inventory.h"
#include "arch/family.h"
#include "arch/final_names.h"
#include "arch/spec_tensors.h"
#include "convert/verify_parts.h"
#include "io/safetensors_writer.h"
#include "plan/plan.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexName = "model.safetensors.index.json";

/// Loaders that read every `model*.safetensors` would take a stray one for weights.
void check_strays(Examined& examined) {
  std::set<std::string> strays;
  std::error_code failed;
  for (fs::directory_iterator it(examined.path, failed), end; !failed && it != end;
       it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("model") && name.ends_with(".safetensors") &&
        !examined.file_names.contains(name)) {
      strays.insert(name);
    }
  }
  const bool plain = examined.directory && examined.directory->format == DirectoryFormat::kHf;
  for (const std::string& name : strays) {
    if (plain) {
      examined.notice(name + ": not in the index; some loaders read it as well");
    } else {
      examined.fault(ErrorCode::kStrayFile, name, {},
                     "not one of the directory's weight files, but loaders read every "
                     "model*.safetensors");
    }
  }
}

/// Our files are laid out by rule, so their headers are known to the byte.
void check_layout(Examined& examined) {
  const auto count = static_cast<uint32_t>(examined.files.size());
  for (uint32_t i = 0; i < count; ++i) {
    const WeightFile& file = examined.files[i];
    if (file.name != shard_file_name(i, count)) {
      examined.fault(ErrorCode::kShardSet, file.name, {},
                     "expected the name " + shard_file_name(i, count));
    }
    std::vector<OutputTensor> tensors;
    for (const TensorInfo& tensor : file.header.tensors) {
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    try {
      const SafetensorsLayout layout = layout_safetensors(std::move(tensors));
      const auto bytes = file.map->bytes();
      if (layout.file_bytes == bytes.size() &&
          std::memcmp(layout.header.data(), bytes.data(), layout.header.size()) == 0) {
        continue;
      }
    } catch (const Error& error) {
      examined.fault(error);
    }
    examined.fault(ErrorCode::kPayloadLayout, file.name, {},
                   "the header is not the one that its tensors give");
  }
}

uint64_t logical_parameters(const ModelDirectory& directory) {
  std::set<const CheckpointTensor*> used;
  uint64_t count = 0;
  const auto product = [](const std::vector<uint64_t>& shape) {
    uint64_t n = 1;
    for (const uint64_t d : shape) n *= d;
    return n;
  };
  for (const QuantizedModule& module : directory.modules) {
    used.insert({module.weight, module.scales, module.biases});
    count += product(module.shape);
  }
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (!used.contains(&tensor)) count += tensor.elements();
  }
  return count;
}

void expect_number(Examined& examined, const std::string& file, const Json* object,
                   std::string_view key, uint64_t expected) {
  const Json* found = object != nullptr ? object->find(key) : nullptr;
  int64_t value = -1;
  if (found != nullptr && found->get_integer(0, INT64_MAX, value) &&
      static_cast<uint64_t>(value) == expected) {
    return;
  }
  examined.fault(file == kIndexName ? ErrorCode::kIndexMismatch : ErrorCode::kManifest, file, {},
                 std::string(key) + ": expected " + std::to_string(expected) + ", found " +
                     (value >= 0 ? std::to_string(value) : std::string("none")));
}

/// Sums that our index and jang_config.json state.
void check_totals(Examined& examined) {
  const ModelDirectory& directory = *examined.directory;
  uint64_t payload = 0, files = 0;
  for (const WeightFile& file : examined.files) {
    payload += file.header.file_bytes - file.header.payload_begin;
    files += file.header.file_bytes;
  }
  const uint64_t parameters = logical_parameters(directory);
  try {
    const Json index = parse_json(read_file(examined.path / kIndexName), std::string(kIndexName),
                                  ErrorCode::kIndexSyntax);
    const Json* metadata = index.find("metadata");
    expect_number(examined, std::string(kIndexName), metadata, "total_size", payload);
    expect_number(examined, std::string(kIndexName), metadata, "total_parameters", parameters);
  } catch (const Error& error) {
    examined.fault(error);
  }
  const Json& jang = *examined.jang_config;
  expect_number(examined, directory.jang_config_file, jang.find("runtime"), "total_weight_bytes",
                files);
  expect_number(examined, directory.jang_config_file, jang.find("source_model"), "parameters",
                parameters);
}

/// Names and shapes against the architecture, where the family is known.
void check_architecture(Examined& examined) {
  const ModelDirectory& directory = *examined.directory;
  if (find_family(directory.config.model_type()) == nullptr) {
    examined.notice("tensors not compared with the architecture: model type " +
                    directory.config.model_type() + " has no family here yet");
    return;
  }
  const Checkpoint& checkpoint = directory.checkpoint;
  const std::string file =
      checkpoint.files().size() == 1 ? checkpoint.files().front() : std::string(kIndexName);
  try {
    if (directory.format == DirectoryFormat::kHf) {
      inventory_of(directory.config, checkpoint);
      return;
    }
    std::vector<FoundTensor> found;
    std::set<const CheckpointTensor*> used;
    for (const QuantizedModule& module : directory.modules) {
      used.insert({module.weight, module.scales, module.biases});
      found.push_back({module.path + ".weight", module.shape});
    }
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      if (used.contains(&tensor)) continue;
      found.push_back({final_name(directory.config, tensor.name).name, tensor.shape});
    }
    check_tensors(directory_spec(directory), found, file);
  } catch (const Error& error) {
    examined.fault(error);
  }
}

}  // namespace

void verify_structure(Examined& examined) {
  check_strays(examined);
  if (examined.ours) check_layout(examined);
  if (!examined.directory) return;
  check_architecture(examined);
  if (examined.ours) check_totals(examined);
}

}  // namespace jang
