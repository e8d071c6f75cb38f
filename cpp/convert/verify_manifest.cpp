// jang_config.json against the tensors: one manifest entry a quantized module, each true.
#include <set>
#include <string>

#include "arch/general_roles.h"
#include "arch/spec_tensors.h"
#include "convert/verify_parts.h"

namespace jang {
namespace {

class ManifestCheck {
 public:
  ManifestCheck(Examined& examined, const std::string& path, const Json& entry)
      : examined_(examined), path_(path), entry_(entry) {}

  void integer(std::string_view key, int64_t expected) {
    const Json* found = entry_.find(key);
    int64_t value = 0;
    if (found != nullptr && found->get_integer(0, INT64_MAX, value) && value == expected) return;
    fault(key, std::to_string(expected), found);
  }

  void text(std::string_view key, std::string_view expected) {
    const Json* found = entry_.find(key);
    if (found != nullptr && found->is_string() && found->as_string() == expected) return;
    fault(key, std::string(expected), found);
  }

  void shape(std::string_view key, const std::vector<uint64_t>& expected) {
    const Json* found = entry_.find(key);
    bool equal =
        found != nullptr && found->is_array() && found->as_array().size() == expected.size();
    for (std::size_t i = 0; equal && i < expected.size(); ++i) {
      int64_t value = 0;
      equal = found->as_array()[i].get_integer(0, INT64_MAX, value) &&
              static_cast<uint64_t>(value) == expected[i];
    }
    if (!equal) fault(key, shape_text(expected), found);
  }

 private:
  void fault(std::string_view key, const std::string& expected, const Json* found) {
    std::string text = found == nullptr ? "none" : dump_json(*found);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    examined_.fault(ErrorCode::kManifest, examined_.directory->jang_config_file, path_,
                    "manifest " + std::string(key) + ": expected " + expected + ", found " + text);
  }

  Examined& examined_;
  const std::string& path_;
  const Json& entry_;
};

void check_entry(Examined& examined, const std::string& path, const Json& entry,
                 const QuantizedModule& module) {
  ManifestCheck check(examined, path, entry);
  check.integer("bits", module.width.bits);
  check.integer("group_size", module.width.group_size);
  const std::pair<std::string, const CheckpointTensor*> parts[] = {
      {"weight", module.weight}, {"scales", module.scales}, {"biases", module.biases}};
  for (const auto& [part, tensor] : parts) {
    if (!examined.ours && entry.find(part + "_key") == nullptr) continue;
    check.text(part + "_key", tensor->name);
    check.shape(part + "_shape", tensor->shape);
  }
  if (!examined.ours) return;
  check.shape("shape", module.shape);
  const std::string& model_type = examined.directory->config.model_type();
  check.text("role", role_name(role_in_model(module.path, module.shape, model_type).role));
}

void check_widths_used(Examined& examined, const Json& quantization) {
  std::set<int64_t> expected;
  for (const QuantizedModule& module : examined.directory->modules) {
    expected.insert(module.width.bits);
  }
  std::set<int64_t> found;
  const Json* list = quantization.find("bit_widths_used");
  if (list != nullptr && list->is_array()) {
    for (const Json& item : list->as_array()) {
      int64_t bits = 0;
      if (item.get_integer(0, 64, bits)) found.insert(bits);
    }
  }
  if (found != expected) {
    examined.fault(ErrorCode::kManifest, examined.directory->jang_config_file, {},
                   "bit_widths_used is not the set of widths of the tensors");
  }
}

}  // namespace

void verify_manifest(Examined& examined) {
  if (!examined.directory || examined.directory->format != DirectoryFormat::kJang) return;
  const ModelDirectory& directory = *examined.directory;
  const std::string& file = directory.jang_config_file;
  const Json* quantization = directory.jang_config->find("quantization");
  const Json* manifest =
      quantization != nullptr ? quantization->find("tensor_quantization_manifest") : nullptr;
  if (manifest == nullptr || !manifest->is_object()) {
    if (examined.ours || manifest != nullptr) {
      examined.fault(ErrorCode::kManifest, file, {}, "tensor_quantization_manifest is missing");
    } else {
      examined.notice(file + ": no tensor_quantization_manifest to compare with");
    }
    return;
  }
  for (const auto& [path, entry] : manifest->as_object()) {
    const QuantizedModule* module = directory.find_module(path);
    if (module == nullptr || !entry.is_object()) {
      examined.fault(ErrorCode::kManifest, file, path,
                     module == nullptr ? "in the manifest, but no quantized module of that path"
                                       : "manifest entry: expected an object");
      continue;
    }
    check_entry(examined, path, entry, *module);
  }
  for (const QuantizedModule& module : directory.modules) {
    if (manifest->find(module.path) == nullptr) {
      examined.fault(ErrorCode::kManifest, file, module.path, "missing in the manifest");
    }
  }
  const Json* count = quantization->find("tensor_quantization_manifest_count");
  int64_t value = -1;
  if (count != nullptr || examined.ours) {
    if (count == nullptr || !count->get_integer(0, INT64_MAX, value) ||
        static_cast<std::size_t>(value) != manifest->as_object().size()) {
      examined.fault(ErrorCode::kManifest, file, {},
                     "tensor_quantization_manifest_count: expected " +
                         std::to_string(manifest->as_object().size()));
    }
  }
  if (examined.ours) check_widths_used(examined, *quantization);
}

}  // namespace jang
