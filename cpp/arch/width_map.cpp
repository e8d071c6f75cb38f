// Parses width maps. A missing or null key of an entry means MLX's own default (4 bits, group 64,
// affine), never the global value: that is what its loader does.
#include "arch/width_map.h"

#include "arch/final_names.h"
#include "base/error.h"
#include "quant/affine_format.h"

namespace jang {
namespace {

constexpr std::string_view kQuantization = "quantization";

class EntryParser {
 public:
  EntryParser(const std::string& file, std::string path) : file_(file), path_(std::move(path)) {}

  void mode(const Json* value) const {
    if (value == nullptr) return;
    if (!value->is_string()) fail("mode: expected a string");
    const std::string& mode = value->as_string();
    if (mode == "affine") return;
    throw Error(ErrorCode::kUnsupportedFormat, file_, path_,
                "quantization mode \"" + mode.substr(0, 40) + "\" is not affine JANG");
  }

  int bits(const Json* value) const {
    if (value == nullptr) return WidthEntry{}.bits;
    int64_t bits = 0;
    if (!value->get_integer(1, 32, bits)) fail("bits: expected one of 2, 3, 4, 5, 6, 8");
    if (bits == 1) {
      throw Error(ErrorCode::kUnsupportedFormat, file_, path_,
                  "1-bit affine weights are not affine JANG (2 to 8 bits)");
    }
    if (!is_bit_width(static_cast<int>(bits))) {
      fail("bits: expected one of 2, 3, 4, 5, 6, 8, found " + std::to_string(bits));
    }
    return static_cast<int>(bits);
  }

  int group_size(const Json* value) const {
    if (value == nullptr) return WidthEntry{}.group_size;
    int64_t group = 0;
    if (!value->get_integer(1, 1 << 20, group)) fail("group_size: expected 32, 64 or 128");
    if (!is_group_size(static_cast<int>(group))) {
      fail("group_size: expected 32, 64 or 128, found " + std::to_string(group));
    }
    return static_cast<int>(group);
  }

  WidthEntry object(const Json& entry) const {
    // The mode first: its own bits and groups would only mislead.
    mode(entry.find("mode"));
    for (const auto& [key, value] : entry.as_object()) {
      if (key == "bits" || key == "group_size" || key == "mode") continue;
      int64_t bits = 0;
      if (key == "storage_bits" && value.get_integer(1, 1, bits)) {
        throw Error(ErrorCode::kUnsupportedFormat, file_, path_,
                    "1-bit affine weights are not affine JANG (2 to 8 bits)");
      }
      fail("unknown key \"" + key.substr(0, 60) + "\"; known: bits, group_size, mode");
    }
    return {bits(entry.find("bits")), group_size(entry.find("group_size"))};
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kMapEntry, file_, path_, message);
  }

 private:
  const std::string& file_;
  std::string path_;
};

}  // namespace

WidthMap parse_width_map(const ModelConfig& config, const Json& quantization) {
  const std::string& file = config.file();
  if (!quantization.is_object()) {
    throw Error(ErrorCode::kMapEntry, file, {}, "quantization: expected an object");
  }
  if (const Json* method = quantization.find("quant_method")) {
    throw Error(ErrorCode::kUnsupportedFormat, file, {},
                "quantization by \"" +
                    (method->is_string() ? method->as_string().substr(0, 40) : std::string("?")) +
                    "\" is not affine JANG");
  }
  const EntryParser global(file, {});
  const Json* bits = quantization.find("bits");
  const Json* group = quantization.find("group_size");
  global.mode(quantization.find("mode"));
  WidthMap map;
  if (bits != nullptr || group != nullptr) {
    map.global = WidthEntry{global.bits(bits), global.group_size(group)};
  }
  for (const auto& [key, value] : quantization.as_object()) {
    if (key == "bits" || key == "group_size" || key == "mode") continue;
    const EntryParser parser(file, key);
    std::optional<WidthEntry> entry;
    if (value.is_object()) {
      entry = parser.object(value);
    } else if (value.is_bool()) {
      if (value.as_bool()) {
        if (!map.global) parser.fail("true, but there is no global bits and group_size");
        entry = map.global;
      }
    } else {
      parser.fail("expected an object, true or false");
    }
    if (!map.entries.emplace(final_module_path(config, key), entry).second) {
      parser.fail("a second entry for the same module");
    }
  }
  return map;
}

std::map<std::string, WidthEntry, std::less<>> parse_manifest_widths(const ModelConfig& config,
                                                                     const Json& jang_config,
                                                                     const std::string& file) {
  std::map<std::string, WidthEntry, std::less<>> widths;
  const Json* quantization = jang_config.find(kQuantization);
  const Json* manifest =
      quantization == nullptr ? nullptr : quantization->find("tensor_quantization_manifest");
  if (manifest == nullptr) return widths;
  if (!manifest->is_object()) {
    throw Error(ErrorCode::kMapEntry, file, {}, "tensor_quantization_manifest: expected an object");
  }
  for (const auto& [path, value] : manifest->as_object()) {
    const EntryParser parser(file, path);
    if (!value.is_object()) parser.fail("manifest entry: expected an object");
    parser.mode(value.find("mode"));
    const Json* bits = value.find("bits");
    const Json* group = value.find("group_size");
    // Other writers leave either out where nothing was quantized.
    if (bits == nullptr || group == nullptr) continue;
    widths.emplace(final_module_path(config, path),
                   WidthEntry{parser.bits(bits), parser.group_size(group)});
  }
  return widths;
}

}  // namespace jang
