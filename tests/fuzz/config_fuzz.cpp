// Any text as JSON, as config.json, as a map of widths and as the specification of a model. Text
// that parses must be written back to text that parses to the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "arch/block_scales.h"
#include "arch/config.h"
#include "arch/family.h"
#include "arch/width_map.h"
#include "base/error.h"
#include "io/json.h"

namespace {

using jang::ErrorCode;

void require(bool condition) {
  if (!condition) std::abort();
}

void round_trip(std::string_view text, bool non_finite) {
  jang::JsonLimits limits;
  limits.non_finite = non_finite;
  try {
    const std::string once =
        jang::dump_json(jang::parse_json(text, "a", ErrorCode::kConfigSyntax, limits));
    const std::string twice =
        jang::dump_json(jang::parse_json(once, "b", ErrorCode::kConfigSyntax, limits));
    require(once == twice);
  } catch (const jang::Error& e) {
    // The second reading must not fail. Its limits may: rewritten text is longer.
    require(e.file() == "a");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  round_trip(text, false);
  round_trip(text, true);
  try {
    const jang::ModelConfig config = jang::ModelConfig::parse(text, "config.json");
    try {
      if (const jang::Json* map = config.root().find("quantization")) {
        jang::parse_width_map(config, *map);
      }
    } catch (const jang::Error&) {
    }
    try {
      jang::stated_blocks(config);
    } catch (const jang::Error&) {
    }
    try {
      jang::parse_manifest_widths(config, config.root(), "jang_config.json");
    } catch (const jang::Error&) {
    }
    jang::require_family(config).spec(config);
  } catch (const jang::Error& e) {
    require(!e.message().empty());
  }
  return 0;
}
