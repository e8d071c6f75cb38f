// Opening a source: format detection and strict reading are arch's and io's; this file decides what
// may be converted and handles directories without weights, which can still be planned.
#include "convert/source.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "arch/block_scales.h"
#include "arch/checkpoint_inventory.h"
#include "arch/directory.h"
#include "arch/family.h"
#include "arch/mxfp4.h"
#include "arch/tied_head.h"
#include "base/error.h"
#include "io/safetensors_writer.h"
#include "io/shard_index.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexName = "model.safetensors.index.json";

bool has_suffix(std::string_view name, std::span<const std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

/// True if the directory has config.json but no weights of any kind.
bool is_bare_config(const fs::path& path) {
  constexpr std::array<std::string_view, 6> weights = {".safetensors", ".bin",  ".pt",
                                                       ".pth",         ".ckpt", ".gguf"};
  std::error_code failed;
  if (!fs::is_regular_file(path / "config.json", failed)) return false;
  for (fs::directory_iterator it(path, failed), end; !failed && it != end; it.increment(failed)) {
    if (has_suffix(it->path().filename().string(), weights)) return false;
  }
  return !failed;
}

[[noreturn]] void refuse_quantized(const std::string& what) {
  throw Error(ErrorCode::kUnsupportedFormat, "config.json", {},
              "the source is already quantized (" + what + ")",
              "convert from the unquantized checkpoint");
}

ConversionSource open_bare(const fs::path& path) {
  ConversionSource source;
  source.config = ModelConfig::read(path);
  // Without weight files nobody has judged the format yet.
  if (stated_blocks(source.config)) {
    throw Error(ErrorCode::kUnsupportedFormat, "config.json", {},
                "the configuration of an FP8 model does not say which tensors are FP8",
                "plan from a directory whose shards hold at least their headers");
  }
  for (const std::string_view key : {"quantization", "quantization_config"}) {
    if (const Json* found = source.config.find(key); found != nullptr) {
      if (key == "quantization_config" && is_mxfp4(source.config)) continue;
      const Json* method = found->find("quant_method");
      refuse_quantized(method != nullptr && method->is_string() ? method->as_string()
                                                                : std::string(key));
    }
  }
  std::vector<std::string> names;
  std::error_code failed;
  if (fs::is_regular_file(path / kIndexName, failed)) {
    const ShardIndex index =
        parse_shard_index(read_file(path / kIndexName), std::string(kIndexName));
    for (const auto& [name, file] : index.weight_map) names.push_back(name);
  }
  source.inventory = build_inventory(source.config, sources_from_config(source.config, names));
  return source;
}

std::string width_text(const ModelDirectory& directory) {
  const std::optional<WidthEntry>& global = directory.widths.global;
  if (!global) return "MLX affine";
  return "MLX affine, " + std::to_string(global->bits) + " bits, group " +
         std::to_string(global->group_size);
}

ModelDirectory open_unquantized(const fs::path& path, bool headers_only) {
  ModelDirectory directory = open_model_directory(
      path, headers_only ? Checkpoint::Access::kHeadersOnly : Checkpoint::Access::kMapped);
  switch (directory.format) {
    case DirectoryFormat::kJang:
      refuse_quantized("JANG");
    case DirectoryFormat::kJangV1:
      refuse_quantized("JANG v1");
    case DirectoryFormat::kMlx:
      refuse_quantized(width_text(directory));
    case DirectoryFormat::kHf:
      break;
  }
  return directory;
}

ConversionSource place(ModelDirectory directory, std::optional<bool> heads_equal) {
  ConversionSource source;
  source.config = std::move(directory.config);
  source.checkpoint = std::move(directory.checkpoint);
  source.heads_equal = heads_equal;
  source.inventory = inventory_of(source.config, *source.checkpoint, heads_equal);
  return source;
}

}  // namespace

ConversionSource open_source(const fs::path& path, bool headers_only) {
  if (headers_only && is_bare_config(path)) return open_bare(path);
  ModelDirectory directory = open_unquantized(path, headers_only);
  std::optional<bool> heads_equal;
  if (!headers_only) heads_equal = stored_heads_equal(directory.config, directory.checkpoint);
  return place(std::move(directory), heads_equal);
}

ConversionSource open_known_source(const fs::path& path, std::optional<bool> heads_equal) {
  return place(open_unquantized(path, false), heads_equal);
}

void require_convertible(const ConversionSource& source) {
  const std::string& type = source.config.model_type();
  if (!is_unknown_model_type(type)) {
    // What no written config can say is refused before the work, not behind it.
    Json written = source.config.root();
    require_family(source.config).complete_config(written, source.config);
  }
  if (type == "gpt2" || type == "openai-gpt") {
    throw Error(ErrorCode::kUnsupportedModel, source.config.file(), {},
                "model type \"" + type +
                    "\" stores its matrices as [inputs, outputs], the other way round");
  }
  for (const FinalTensor& tensor : source.inventory.tensors) {
    if (tensor.obstacle.empty()) continue;
    throw Error(ErrorCode::kUnsupportedModel, source.config.file(), tensor.source,
                "cannot be converted yet: " + tensor.obstacle);
  }
}

}  // namespace jang
