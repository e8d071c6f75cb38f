// Any text as a shard index: the file names that pass stay inside the directory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/shard_index.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const jang::ShardIndex index = jang::parse_shard_index(text, "fuzz.json");
    require(!index.weight_map.empty() && !index.files.empty());
    for (const std::string& file : index.files) {
      require(file.ends_with(".safetensors"));
      require(file.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos);
    }
  } catch (const jang::Error& e) {
    require(e.file() == "fuzz.json" && !e.message().empty());
  }
  return 0;
}
