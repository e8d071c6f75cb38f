// Rule 14: names in an index are judged as strings and never resolved, so that a hostile index
// cannot point outside its directory, while a Hub cache, whose files are links, still opens.
#include "io/shard_index.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <system_error>

#include "base/error.h"
#include "io/json.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".safetensors";
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxFileNameBytes = 255;
constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::array<std::string_view, 6> kPickleSuffixes{".bin",  ".pt",  ".pth",
                                                          ".ckpt", ".pkl", ".pickle"};

bool is_pickle_name(std::string_view name) {
  return std::any_of(kPickleSuffixes.begin(), kPickleSuffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

std::string pickle_hint() {
  return "if you trust the files, convert them first: python -c \"from transformers import "
         "AutoModelForCausalLM as M; M.from_pretrained('DIR', dtype='auto')"
         ".save_pretrained('NEW_DIR')\"";
}

/// Why `name` is no bare *.safetensors name, or nothing.
std::optional<std::string> name_fault(std::string_view name) {
  if (name.size() > kMaxFileNameBytes) return "longer than 255 bytes";
  for (const char c : name) {
    if (c == '/' || c == '\\') return "it holds a separator";
    if (c == ':') return "it holds a drive or stream separator";
    if (static_cast<unsigned char>(c) < 0x20) return "it holds a control character";
  }
  if (name == "." || name == "..") return "it names a directory";
  if (is_pickle_name(name)) return "it names a pickle file, which can run code";
  if (!name.ends_with(kSuffix) || name.size() == kSuffix.size()) {
    return "it does not end in .safetensors";
  }
  return std::nullopt;
}

struct SetMember {
  uint32_t number = 0;
  uint32_t total = 0;
};

std::string set_name(uint32_t number, uint32_t total) {
  const auto five = [](uint32_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "model-" + five(number) + "-of-" + five(total) + std::string(kSuffix);
}

/// Numbers of "model-00001-of-00002.safetensors"; exactly that spelling.
std::optional<SetMember> parse_set_name(std::string_view name) {
  constexpr std::string_view kPattern = "model-DDDDD-of-DDDDD.safetensors";
  if (name.size() != kPattern.size()) return std::nullopt;
  std::array<uint32_t, 2> numbers{};
  std::size_t digits = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (kPattern[i] != 'D') {
      if (name[i] != kPattern[i]) return std::nullopt;
      continue;
    }
    if (name[i] < '0' || name[i] > '9') return std::nullopt;
    uint32_t& number = numbers[digits++ / 5];
    number = 10 * number + static_cast<uint32_t>(name[i] - '0');
  }
  return SetMember{numbers[0], numbers[1]};
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) throw Error(ErrorCode::kIo, directory.string(), {}, "cannot list: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> complete_set(const fs::path& directory,
                                      const std::vector<std::string>& names) {
  std::vector<std::string> members;
  std::set<uint32_t> totals;
  for (const std::string& name : names) {
    if (const auto member = parse_set_name(name)) {
      members.push_back(name);
      totals.insert(member->total);
    }
  }
  if (members.empty()) return {};
  const auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kShardSet, directory.string(), {}, message,
                "the download or copy is incomplete, or holds two models");
  };
  if (totals.size() > 1) {
    fail("expected one set of shards, found " + members.front() + " and " + members.back());
  }
  const uint32_t total = *totals.begin();
  for (uint32_t i = 1; i <= total; ++i) {
    const std::string name = set_name(i, total);
    if (!std::binary_search(members.begin(), members.end(), name)) {
      fail("expected " + name + ", found only " + std::to_string(members.size()) + " of " +
           std::to_string(total) + " shards");
    }
  }
  if (members.size() != total) {
    fail("expected " + std::to_string(total) + " shards, found " + members.front());
  }
  return members;
}

[[noreturn]] void fail_without_weights(const fs::path& directory,
                                       const std::vector<std::string>& names) {
  const auto pickle = std::find_if(names.begin(), names.end(), is_pickle_name);
  if (pickle != names.end()) {
    throw Error(ErrorCode::kUnsupportedFormat, (directory / *pickle).string(), {},
                "expected safetensors, found only pickle files, which can run code and are never "
                "read",
                pickle_hint());
  }
  throw Error(ErrorCode::kShardSet, directory.string(), {},
              "expected model.safetensors, model.safetensors.index.json or a set "
              "model-*-of-*.safetensors, found none of them");
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::string& file) {
  const Json root = parse_json(text, file, ErrorCode::kIndexSyntax);
  const auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kIndexSyntax, file, {}, message);
  };
  if (!root.is_object()) fail("expected an object");
  const Json* map = root.find("weight_map");
  if (map == nullptr || !map->is_object()) fail("weight_map: expected an object");
  if (map->as_object().empty()) fail("weight_map: expected at least one tensor, found none");
  if (map->as_object().size() > kMaxTensors) {
    fail("weight_map: expected at most " + std::to_string(kMaxTensors) + " tensors, found " +
         std::to_string(map->as_object().size()));
  }
  ShardIndex index;
  std::set<std::string, std::less<>> files;
  for (const auto& [tensor, value] : map->as_object()) {
    if (!value.is_string()) {
      throw Error(ErrorCode::kIndexSyntax, file, tensor, "weight_map: expected a file name");
    }
    const std::string& name = value.as_string();
    if (!files.contains(name)) {
      if (const auto fault = name_fault(name)) {
        throw Error(ErrorCode::kIndexFileName, file, tensor,
                    "expected a bare name ending in .safetensors, found '" + name + "': " + *fault,
                    is_pickle_name(name) ? pickle_hint() : std::string());
      }
      files.insert(name);
    }
    index.weight_map.emplace_hint(index.weight_map.end(), tensor, name);
  }
  index.files.assign(files.begin(), files.end());
  return index;
}

std::vector<std::string> find_weight_files(const fs::path& directory, ShardIndex* index) {
  const std::vector<std::string> names = names_in(directory);
  const auto present = [&](std::string_view name) {
    return std::binary_search(names.begin(), names.end(), name, std::less<>());
  };
  if (present(kIndexName)) {
    const fs::path path = directory / kIndexName;
    ShardIndex parsed = parse_shard_index(read_file(path), path.string());
    for (const std::string& file : parsed.files) {
      if (present(file)) continue;
      throw Error(ErrorCode::kShardSet, path.string(), {},
                  "expected the listed file " + file + " beside the index, found none",
                  "the download or copy is incomplete");
    }
    std::vector<std::string> files = parsed.files;
    if (index != nullptr) *index = std::move(parsed);
    return files;
  }
  if (present("model.safetensors")) return {"model.safetensors"};
  std::vector<std::string> set = complete_set(directory, names);
  if (set.empty()) fail_without_weights(directory, names);
  return set;
}

}  // namespace jang
