// Opens a model directory by the reading rules: what it is, what it claims, and whether its tensors
// bear that out.
#include "arch/directory.h"

#include <algorithm>
#include <array>
#include <set>
#include <system_error>

#include "arch/block_scales.h"
#include "arch/checkpoint_inventory.h"
#include "arch/family.h"
#include "arch/final_names.h"
#include "arch/foreign_formats.h"
#include "arch/spec_tensors.h"
#include "arch/tied_head.h"
#include "arch/triples.h"
#include "arch/width_map.h"
#include "arch/zero_centred_norms.h"
#include "base/error.h"
#include "io/safetensors_writer.h"
#include "io/shard_index.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kJangFiles = {"jang_config.json", "jjqf_config.json",
                                                        "jang_cfg.json", "mxq_config.json"};
constexpr std::array<std::string_view, 3> kV1Names = {"jang", "jjqf", "mxq"};

bool is_file(const fs::path& path) {
  std::error_code failed;
  return fs::is_regular_file(path, failed);
}

void find_jang_config(ModelDirectory& directory) {
  for (const std::string_view name : kJangFiles) {
    const fs::path file = directory.path / name;
    if (!is_file(file)) continue;
    directory.jang_config_file = name;
    directory.jang_config =
        parse_json(read_file(file), directory.jang_config_file, ErrorCode::kConfigSyntax);
    if (!directory.jang_config->is_object()) {
      throw Error(ErrorCode::kConfigSyntax, directory.jang_config_file, {},
                  "expected a JSON object");
    }
    return;
  }
  const Json* inner = directory.config.root().find("jang");
  if (inner != nullptr && inner->is_object()) directory.jang_config = *inner;
}

void open_weights(ModelDirectory& directory, Checkpoint::Access access) {
  std::vector<std::string> old_files;
  if (directory.jang_config) old_files = v1_weight_files(directory.path);
  directory.checkpoint = old_files.empty()
                             ? Checkpoint::open(directory.path, access)
                             : Checkpoint::open_files(directory.path, old_files, access);
  if (!directory.jang_config) return;
  const auto& tensors = directory.checkpoint.tensors();
  const bool v1 = std::any_of(tensors.begin(), tensors.end(), [](const CheckpointTensor& tensor) {
    return tensor.name.ends_with(".qweight");
  });
  directory.format = v1 ? DirectoryFormat::kJangV1 : DirectoryFormat::kJang;
}

/// Shapes of the matrices where the architecture is known. A model that cannot run (a rotary type
/// without a layer, say) can still be looked at, by the map alone.
ModuleShapes known_shapes(const ModelConfig& config) {
  ModuleShapes shapes;
  if (find_family(config.model_type()) == nullptr) return shapes;
  try {
    for (const SpecTensor& tensor : spec_tensors(require_family(config).spec(config))) {
      if (!tensor.matrix) continue;
      shapes.emplace(tensor.name.substr(0, tensor.name.size() - std::string_view(".weight").size()),
                     tensor.shape);
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupportedModel) throw;
  }
  return shapes;
}

/// Codes without a word in config.json: a stock directory whose config was replaced.
void refuse_unstated_codes(const ModelDirectory& directory) {
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (!tensor.name.ends_with(".scales") && tensor.dtype != DType::kU32) continue;
    throw Error(ErrorCode::kMapEntry, directory.checkpoint.files()[tensor.file], tensor.name,
                "belongs to a quantized module, but config.json has no quantization");
  }
}

/// 8-bit floats are codes that only plain directories have, scales beside them.
void refuse_float8(const ModelDirectory& directory) {
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (tensor.dtype != DType::kF8E4M3) continue;
    throw Error(ErrorCode::kUnusableDtype, directory.checkpoint.files()[tensor.file], tensor.name,
                "F8_E4M3 is not for a tensor of a " + std::string(format_name(directory.format)) +
                    " directory");
  }
}

/// Other writers split gate_up_proj into its halves.
template <typename Stored>
void take_stored_halves(ModelSpec& spec, const Stored& stored) {
  constexpr std::string_view kFused = "gate_up_proj";
  for (LayerSpec& layer : spec.layers) {
    auto* mlp = layer.feed_forward ? std::get_if<GatedMlpSpec>(&*layer.feed_forward) : nullptr;
    if (mlp == nullptr || !mlp->gate_up || stored(mlp->gate_up->path)) continue;
    if (!mlp->gate_up->path.ends_with(kFused)) continue;
    const std::string base =
        mlp->gate_up->path.substr(0, mlp->gate_up->path.size() - kFused.size());
    if (!stored(base + "gate_proj")) continue;
    mlp->gate.path = base + "gate_proj";
    mlp->up.path = base + "up_proj";
    mlp->gate_up.reset();
  }
}

/// Other writers give lfm2's feed-forward the names of most families.
template <typename Stored>
void take_stored_names(ModelSpec& spec, const Stored& stored) {
  constexpr std::string_view kGate = "feed_forward.w1";
  for (LayerSpec& layer : spec.layers) {
    auto* mlp = layer.feed_forward ? std::get_if<GatedMlpSpec>(&*layer.feed_forward) : nullptr;
    if (mlp == nullptr || !mlp->gate.path.ends_with(kGate) || stored(mlp->gate.path)) continue;
    const std::string base = mlp->gate.path.substr(0, mlp->gate.path.size() - 2);
    if (!stored(base + "gate_proj")) continue;
    mlp->gate.path = base + "gate_proj";
    mlp->up.path = base + "up_proj";
    mlp->down.path = base + "down_proj";
  }
}

void collect_renamed(ModelDirectory& directory) {
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (is_dropped(directory.config, tensor.name)) continue;
    FinalName final = final_name(directory.config, tensor.name);
    if (final.expert < 0 && final.name != tensor.name)
      directory.renamed.emplace(std::move(final.name), &tensor);
  }
}

/// Whether values that stock mlx-lm changes along with the convolutions lie here as Hugging Face
/// has them. Other writers of JANG turned the convolutions alone; what they did is what they said.
bool values_are_raw(const ModelDirectory& directory, std::string_view stamp_key) {
  if (directory.format != DirectoryFormat::kJang)
    return holds_raw_convolutions(source_tensors(directory.checkpoint));
  const Json* stamp = directory.config.root().find(stamp_key);
  if (stamp == nullptr) stamp = directory.jang_config->find(stamp_key);
  return stamp == nullptr || !stamp->is_bool() || !stamp->as_bool();
}

void collect_ids(const Json* value, const std::string& file, std::set<int64_t>& ids) {
  if (value == nullptr) return;
  const auto add = [&](const Json& id) {
    int64_t number = 0;
    if (!id.get_integer(0, ModelConfig::kMaxVocabulary, number)) {
      throw Error(ErrorCode::kConfigValue, file, {},
                  "eos_token_id: expected a token id or a list of them");
    }
    ids.insert(number);
  };
  if (!value->is_array()) return add(*value);
  for (const Json& id : value->as_array()) add(id);
}

}  // namespace

std::string_view format_name(DirectoryFormat format) noexcept {
  switch (format) {
    case DirectoryFormat::kJang:
      return "jang";
    case DirectoryFormat::kJangV1:
      return "jang-v1";
    case DirectoryFormat::kMlx:
      return "mlx";
    case DirectoryFormat::kHf:
      return "hf";
  }
  return "hf";
}

std::vector<std::string> v1_weight_files(const fs::path& path) {
  for (const std::string_view name : kV1Names) {
    const std::string index = "model." + std::string(name) + ".index.json";
    if (is_file(path / index)) return parse_shard_index(read_file(path / index), index).files;
  }
  std::vector<std::string> files;
  std::error_code failed;
  for (fs::directory_iterator it(path, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string file = it->path().filename().string();
    for (const std::string_view name : kV1Names) {
      if (file.ends_with("." + std::string(name) + ".safetensors")) files.push_back(file);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

const QuantizedModule* ModelDirectory::find_module(std::string_view wanted) const noexcept {
  const auto it = std::lower_bound(
      modules.begin(), modules.end(), wanted,
      [](const QuantizedModule& module, std::string_view name) { return module.path < name; });
  return it != modules.end() && it->path == wanted ? &*it : nullptr;
}

const CheckpointTensor* ModelDirectory::find_tensor(std::string_view final_name) const noexcept {
  if (const CheckpointTensor* tensor = checkpoint.find(final_name)) return tensor;
  const auto it = renamed.find(final_name);
  return it == renamed.end() ? nullptr : it->second;
}

ModelDirectory open_model_directory(const fs::path& path, Checkpoint::Access access,
                                    MapReading map) {
  std::error_code failed;
  if (!fs::is_directory(path, failed)) {
    throw Error(ErrorCode::kIo, path.string(), {}, "no such directory");
  }
  if (!is_file(path / "config.json")) {
    throw Error(ErrorCode::kUnknownFormat, path.string(), {},
                "no config.json: this is no model directory");
  }
  ModelDirectory directory;
  directory.path = path;
  directory.config = ModelConfig::read(path);
  refuse_foreign_files(path);
  find_jang_config(directory);
  const std::string jang_file =
      directory.jang_config_file.empty() ? "config.json" : directory.jang_config_file;
  const Json* quantization = directory.config.find("quantization");
  if (directory.jang_config) {
    refuse_foreign_jang(*directory.jang_config, jang_file);
    directory.format = DirectoryFormat::kJang;
  } else if (quantization != nullptr) {
    directory.format = DirectoryFormat::kMlx;
  } else {
    refuse_foreign_method(directory.config);
  }
  const bool jang = directory.jang_config.has_value();
  open_weights(directory, access);
  refuse_foreign_tensors(directory.checkpoint, directory.format == DirectoryFormat::kJangV1);
  if (directory.format != DirectoryFormat::kHf) refuse_float8(directory);
  directory.raw_norms = has_zero_centred_norms(directory.config.model_type()) &&
                        values_are_raw(directory, kNormsShiftedKey);
  if (directory.format == DirectoryFormat::kJangV1) return directory;
  collect_renamed(directory);
  if (directory.format == DirectoryFormat::kHf) {
    refuse_unstated_codes(directory);
    directory.blocks = stated_blocks(directory.config);
    naming_files(directory.checkpoint, [&] {
      check_block_scales(directory.config, source_tensors(directory.checkpoint), directory.blocks);
    });
    return directory;
  }
  if (quantization != nullptr) directory.widths = parse_width_map(directory.config, *quantization);
  std::map<std::string, WidthEntry, std::less<>> manifest;
  if (jang) manifest = parse_manifest_widths(directory.config, *directory.jang_config, jang_file);
  collect_modules(directory, manifest, known_shapes(directory.config), map);
  return directory;
}

ModelSpec directory_spec(const ModelDirectory& directory) {
  ModelSpec spec = require_family(directory.config).spec(directory.config);
  if (directory.raw_norms) add_one_to_norms(spec);
  const auto stored = [&](const std::string& path) {
    return directory.find_tensor(path + ".weight") != nullptr;
  };
  take_stored_halves(spec, stored);
  take_stored_names(spec, stored);
  if (!spec.head.tied) return spec;
  const std::string& head = spec.head.linear.path;
  if (!stored(head)) return spec;
  if (!stored(spec.embedding.path)) {
    spec.embedding.path = head;
  } else if (stored_heads_equal(directory.config, directory.checkpoint) == false) {
    spec.head.tied = false;
  }
  return spec;
}

TensorFactors directory_factors(const ModelDirectory& directory) {
  TensorFactors factors = factors_of(directory.config);
  if (factors.empty() || !values_are_raw(directory, kFactorsFoldedKey)) return {};
  const ModelSpec own = require_family(directory.config).spec(directory.config);
  const std::string embedding = directory_spec(directory).embedding.path + ".weight";
  const auto it = factors.find(own.embedding.path + ".weight");
  // A head that serves as the embedding has its factors.
  if (embedding == own.embedding.path + ".weight") return factors;
  factors.erase(embedding);
  if (it != factors.end()) factors.emplace(embedding, it->second);
  return factors;
}

std::vector<int64_t> eos_token_ids(const ModelDirectory& directory) {
  std::set<int64_t> ids;
  const ModelConfig& config = directory.config;
  collect_ids(config.text().find("eos_token_id"), config.file(), ids);
  collect_ids(config.root().find("eos_token_id"), config.file(), ids);
  const fs::path generation = directory.path / "generation_config.json";
  if (is_file(generation)) {
    JsonLimits limits;
    limits.non_finite = true;
    const Json parsed = parse_json(read_file(generation), "generation_config.json",
                                   ErrorCode::kConfigSyntax, limits);
    collect_ids(parsed.find("eos_token_id"), "generation_config.json", ids);
  }
  return {ids.begin(), ids.end()};
}

}  // namespace jang
