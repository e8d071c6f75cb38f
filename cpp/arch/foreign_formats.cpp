// Refusals by name. Each message says what was found and that it is not affine JANG.
#include "arch/foreign_formats.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "arch/block_scales.h"
#include "arch/mxfp4.h"
#include "base/error.h"

namespace jang {
namespace {

[[noreturn]] void refuse(const std::string& file, const std::string& what,
                         const std::string& tensor = {}) {
  throw Error(ErrorCode::kUnsupportedFormat, file, tensor, what + "; it is not affine JANG");
}

std::string quoted(const std::string& text) { return '"' + text.substr(0, 40) + '"'; }

int major_version(const Json& jang_config, const std::string& file) {
  const Json* version = jang_config.find("format_version");
  if (version == nullptr) return 1;
  int64_t number = 0;
  if (version->get_integer(0, 1000, number)) return static_cast<int>(number);
  if (version->is_number()) return static_cast<int>(version->as_double());
  if (version->is_string()) {
    const std::string& text = version->as_string();
    int major = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), major);
    if (error == std::errc{} && (end == text.data() + text.size() || *end == '.')) return major;
  }
  throw Error(ErrorCode::kConfigValue, file, {}, "format_version: expected a string like \"2.0\"");
}

}  // namespace

void refuse_foreign_method(const ModelConfig& config) {
  if (is_mxfp4(config)) return;
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    const Json* found = config.find(key);
    if (found == nullptr) continue;
    if (!found->is_object()) config.fail(key, "expected an object");
    if (found->as_object().empty()) continue;
    if (key == "quantization_config" && stated_blocks(config)) continue;
    const Json* method = found->find("quant_method");
    if (method != nullptr && method->is_string()) {
      refuse(config.file(), "quantized by " + quoted(method->as_string()) + " (" +
                                std::string(key) + ".quant_method)");
    }
    refuse(config.file(), std::string(key) + " without a quant_method that says what it is");
  }
}

void refuse_foreign_jang(const Json& jang_config, const std::string& file) {
  const Json* format = jang_config.find("format");
  if (format == nullptr || !format->is_string()) {
    throw Error(ErrorCode::kConfigValue, file, {}, "format: expected a string such as \"jang\"");
  }
  const std::string& name = format->as_string();
  if (name != "jang" && name != "jjqf" && name != "mxq") refuse(file, "format " + quoted(name));
  if (const int major = major_version(jang_config, file); major > 2) {
    throw Error(ErrorCode::kUnsupportedFormat, file, {},
                "format version " + std::to_string(major) + " is newer than 2");
  }
  const Json* quantization = jang_config.find("quantization");
  for (const Json* place : {&jang_config, quantization}) {
    if (place == nullptr || !place->is_object()) continue;
    if (const Json* weights = place->find("weight_format")) {
      constexpr std::array<std::string_view, 4> kAffine = {"mlx", "affine", "jang_affine", "bf16"};
      const std::string value = weights->is_string() ? weights->as_string() : std::string("?");
      if (std::find(kAffine.begin(), kAffine.end(), value) == kAffine.end()) {
        refuse(file, "weight_format " + quoted(value));
      }
    }
    if (const Json* rotated = place->find("hadamard_rotation");
        rotated != nullptr && !(rotated->is_bool() && !rotated->as_bool())) {
      refuse(file, "hadamard_rotation: the weights are rotated");
    }
  }
}

void refuse_foreign_files(const std::filesystem::path& directory) {
  std::error_code failed;
  for (std::filesystem::directory_iterator it(directory, failed), end; !failed && it != end;
       it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (name == "jangspec.json") refuse(name, "a jangspec bundle");
    if (name.starts_with("codebook-layer-")) refuse(name, "weights by codebooks");
  }
}

void refuse_foreign_tensors(const Checkpoint& checkpoint, bool jang_v1) {
  struct Pattern {
    std::string_view text;
    bool suffix;
    std::string_view what;
  };
  constexpr std::array<Pattern, 5> kPatterns = {{
      {".tq_packed", true, "a JANGTQ tensor"},
      {".tq2_packed", true, "a JANGH tensor"},
      {"codebook_vq", false, "weights by codebooks"},
      {".awq_scales", true, "activation-aware scales that no loader applies"},
      {".qweight", true, "weights packed by GPTQ, AWQ or a relative"},
  }};
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    for (const Pattern& pattern : kPatterns) {
      const bool found = pattern.suffix ? tensor.name.ends_with(pattern.text)
                                        : tensor.name.find(pattern.text) != std::string::npos;
      if (!found || (jang_v1 && pattern.text == ".qweight")) continue;
      refuse(checkpoint.files()[tensor.file], std::string(pattern.what), tensor.name);
    }
  }
}

}  // namespace jang
