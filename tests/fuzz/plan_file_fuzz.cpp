// Any text as a plan file: what passes is the plan that its own text says, within the caps. The
// checksum is put right first, or nothing would ever come behind it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "convert/plan_file.h"
#include "io/checksum.h"
#include "io/json.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::string sealed(std::string_view text) {
  try {
    jang::Json document = jang::parse_json(text, "fuzz.json", jang::ErrorCode::kConfigSyntax);
    if (!document.is_object()) return std::string(text);
    document.as_object().erase("checksum");
    const std::string body = jang::dump_json(document);
    document["checksum"] = jang::crc32_text(jang::crc32_of(std::as_bytes(std::span(body))));
    return jang::dump_json(document);
  } catch (const jang::Error&) {
    return std::string(text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string text = sealed({reinterpret_cast<const char*>(data), size});
  try {
    const jang::PlanFile file = jang::parse_plan_file(text, "fuzz.json");
    const jang::PlanFile again = jang::parse_plan_file(jang::plan_file_text(file), "again.json");
    require(jang::plan_file_text(again) == jang::plan_file_text(file));
    std::size_t placed = 0;
    for (const auto& shard : file.plan.shards) placed += shard.size();
    require(placed == file.plan.tensors.size());
    for (const jang::SourceFile& source : file.files)
      require(source.name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos);
  } catch (const jang::Error& e) {
    require(e.file() == "fuzz.json" && !e.message().empty());
  }
  return 0;
}
