// model.safetensors.index.json: which shard holds which tensor (rule 14).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace jang {

struct ShardIndex {
  std::map<std::string, std::string, std::less<>> weight_map;  // tensor -> bare file name
  std::vector<std::string> files;                              // distinct, sorted
};

/// `file` is used in messages.
ShardIndex parse_shard_index(std::string_view text, const std::string& file);

/// The weight files of a directory: those of its index; else
/// `model.safetensors`; else one complete `model-*-of-*` set. `index`, if given, is filled where
/// there is one. Throws kShardSet, or kUnsupportedFormat naming the pickle file if only those are
/// there.
std::vector<std::string> find_weight_files(const std::filesystem::path& directory,
                                           ShardIndex* index);

}  // namespace jang
