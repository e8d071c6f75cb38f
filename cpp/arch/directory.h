// A model directory as a whole: what format it is, its config, its map of widths, its tensors.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/config.h"
#include "arch/folded_factors.h"
#include "arch/inventory.h"
#include "arch/spec.h"
#include "io/checkpoint.h"
#include "io/json.h"

namespace jang {

enum class DirectoryFormat { kJang, kJangV1, kMlx, kHf };
std::string_view format_name(DirectoryFormat format) noexcept;  // "jang", "jang-v1", "mlx", "hf"

struct WidthEntry {
  int bits = 4;
  int group_size = 64;
  bool operator==(const WidthEntry&) const = default;
};

/// `quantization` of config.json, parsed strictly (format.md, section 7).
struct WidthMap {
  std::optional<WidthEntry> global;
  /// nullopt: `false`, the module must not have scales.
  std::map<std::string, std::optional<WidthEntry>, std::less<>> entries;
};

/// A quantized module found in the tensors, its identities checked.
struct QuantizedModule {
  std::string path;
  WidthEntry width;
  std::vector<uint64_t> shape;  // logical: [E,] out, in
  const CheckpointTensor* weight = nullptr;
  const CheckpointTensor* scales = nullptr;
  const CheckpointTensor* biases = nullptr;
};

/// What a strict reader refuses in a map of widths, and what the tensors say instead.
struct MapRepair {
  std::string path;
  std::string stated;               // "4 bits with group size 64", "no entry"
  std::optional<WidthEntry> width;  // nullopt: there is no such module
};

enum class MapReading {
  kStrict,  // a wrong or missing entry is an error
  kMended,  // the pair that shapes and architecture leave is taken, if it is one
};

struct ModelDirectory {
  std::filesystem::path path;
  DirectoryFormat format = DirectoryFormat::kHf;
  ModelConfig config;
  std::optional<Json> jang_config;
  std::string jang_config_file;  // its bare name; empty if none or inside config.json
  WidthMap widths;
  Checkpoint checkpoint;
  std::vector<QuantizedModule> modules;  // by path; empty for plain directories
  /// Of F8_E4M3 tensors, all of which have been held against their scales; of plain directories.
  std::optional<ScaleBlocks> blocks;
  std::vector<MapRepair> repairs;  // with kMended
  /// Norms of a family that knows both forms lie here as gamma - 1.
  bool raw_norms = false;
  /// Tensors whose final name is another than the stored one, by final name; no experts.
  std::map<std::string, const CheckpointTensor*, std::less<>> renamed;

  const QuantizedModule* find_module(std::string_view wanted) const noexcept;
  /// The tensor stored under this final name or one that becomes it, or nullptr.
  const CheckpointTensor* find_tensor(std::string_view final_name) const noexcept;
};

/// Detects by the reading rules, refuses by name what is not ours, validates map and triples. JANG
/// v1 is opened as it lies there (`modules` stays empty); stored_model.h makes a model of it.
ModelDirectory open_model_directory(const std::filesystem::path& path,
                                    Checkpoint::Access access = Checkpoint::Access::kMapped,
                                    MapReading map = MapReading::kStrict);

/// Bare names of the weight files of a JANG v1 directory, which has names of its own for them;
/// empty if there are none by those names.
std::vector<std::string> v1_weight_files(const std::filesystem::path& path);

/// The family's spec of this directory, with head and feed-forwards as they are stored: a tied head
/// whose own tensor differs is untied, a tied model that stores only lm_head embeds with it, and
/// halves of a gate_up_proj are two modules. Throws like require_family.
ModelSpec directory_spec(const ModelDirectory& directory);

/// Factors that the directory's tensors do not hold, by the names that directory_spec gives them.
TensorFactors directory_factors(const ModelDirectory& directory);

/// Union of eos ids of config.json (text and root) and generation_config.json, sorted. Tokenizer
/// ids are added by the caller, who has the tokenizer.
std::vector<int64_t> eos_token_ids(const ModelDirectory& directory);

}  // namespace jang
