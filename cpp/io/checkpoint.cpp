// Opens shards, joins their tables, and holds them against the index.
#include "io/checkpoint.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "io/shard_index.h"

namespace jang {
namespace {

/// Rule 14: each listed tensor in its shard, each shard tensor listed.
void check_against_index(const Checkpoint& checkpoint, const ShardIndex& index) {
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::string& file = checkpoint.files()[tensor.file];
    const auto listed = index.weight_map.find(tensor.name);
    if (listed == index.weight_map.end()) {
      throw Error(ErrorCode::kIndexMismatch, (checkpoint.directory() / file).string(), tensor.name,
                  "expected the index to list it, found it only in the shard");
    }
    if (listed->second != file) {
      throw Error(ErrorCode::kIndexMismatch, (checkpoint.directory() / file).string(), tensor.name,
                  "expected it in " + listed->second + " as the index says, found it in " + file);
    }
  }
  if (checkpoint.tensors().size() == index.weight_map.size()) return;
  for (const auto& [name, file] : index.weight_map) {
    if (checkpoint.find(name) == nullptr) {
      throw Error(ErrorCode::kIndexMismatch, (checkpoint.directory() / file).string(), name,
                  "expected it in " + file + " as the index says, found no such tensor");
    }
  }
}

}  // namespace

Checkpoint Checkpoint::open(const std::filesystem::path& directory, Access access) {
  ShardIndex index;
  const std::vector<std::string> files = find_weight_files(directory, &index);
  Checkpoint checkpoint = open_files(directory, files, access);
  if (!index.files.empty()) check_against_index(checkpoint, index);
  return checkpoint;
}

Checkpoint Checkpoint::open_files(const std::filesystem::path& directory,
                                  const std::vector<std::string>& files, Access access) {
  const PayloadCheck payload =
      access == Access::kMapped ? PayloadCheck::kPresent : PayloadCheck::kPromised;
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.files_ = files;
  for (uint32_t i = 0; i < files.size(); ++i) {
    const std::filesystem::path path = directory / files[i];
    auto mapping = MappedFile::open(path);
    SafetensorsHeader header =
        parse_safetensors_header(mapping->bytes(), mapping->bytes().size(), path.string(), payload);
    const auto total = checked_add(checkpoint.file_bytes_, header.file_bytes);
    if (!total) {
      throw Error(ErrorCode::kPayloadLayout, path.string(), {},
                  "the sizes of the files overflow 64 bits");
    }
    checkpoint.file_bytes_ = *total;
    for (TensorInfo& info : header.tensors) {
      checkpoint.tensors_.push_back(CheckpointTensor{std::move(info), i});
    }
    if (access == Access::kMapped) checkpoint.mappings_.push_back(std::move(mapping));
  }
  auto& tensors = checkpoint.tensors_;
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twin =
      std::adjacent_find(tensors.begin(), tensors.end(),
                         [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twin != tensors.end()) {
    const auto [first, second] = std::minmax(twin->file, (twin + 1)->file);
    throw Error(ErrorCode::kIndexMismatch, (directory / files[second]).string(), twin->name,
                "expected every tensor in one shard, found it in " + files[first] + " too");
  }
  return checkpoint;
}

Checkpoint Checkpoint::seen_as(std::vector<CheckpointTensor> tensors,
                               std::vector<MadeFile> made) const {
  JANG_ASSERT(mappings_.size() == files_.size());
  Checkpoint seen;
  seen.directory_ = directory_;
  seen.files_ = files_;
  seen.mappings_ = mappings_;
  seen.file_bytes_ = file_bytes_;
  for (MadeFile& file : made) {
    seen.mappings_.push_back(MappedFile::of_memory(directory_ / file.name, std::move(file.bytes)));
    seen.files_.push_back(std::move(file.name));
  }
  seen.tensors_ = std::move(tensors);
  std::sort(seen.tensors_.begin(), seen.tensors_.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for ([[maybe_unused]] const CheckpointTensor& tensor : seen.tensors_) {
    JANG_ASSERT(tensor.file < seen.mappings_.size() && tensor.begin <= tensor.end &&
                tensor.end <= seen.mappings_[tensor.file]->bytes().size());
  }
  return seen;
}

void Checkpoint::reopen(uint32_t file) {
  const std::filesystem::path path = directory_ / files_[file];
  auto mapping = MappedFile::open(path);
  const auto before = mappings_[file]->bytes(), after = mapping->bytes();
  if (before.size() != after.size()) {
    throw Error(ErrorCode::kChecksum, path.string(), {},
                "expected " + std::to_string(before.size()) +
                    " bytes as when it was planned with, found " + std::to_string(after.size()));
  }
  uint64_t header = before.size();  // of a file without tensors
  for (const CheckpointTensor& tensor : tensors_)
    if (tensor.file == file) header = std::min(header, tensor.begin);
  if (!std::equal(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(header),
                  after.begin())) {
    throw Error(ErrorCode::kChecksum, path.string(), {},
                "expected the header that was planned with, found another");
  }
  mappings_[file] = std::move(mapping);
}

const CheckpointTensor* Checkpoint::find(std::string_view name) const noexcept {
  const auto place =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const CheckpointTensor& t, std::string_view n) { return t.name < n; });
  return place != tensors_.end() && place->name == name ? &*place : nullptr;
}

std::shared_ptr<const MappedFile> Checkpoint::share_mapping(const CheckpointTensor& tensor) const {
  if (tensor.file >= mappings_.size() || mappings_[tensor.file] == nullptr) {
    throw Error(ErrorCode::kArgument, directory_.string(), tensor.name,
                "the file was opened for its header only, or closed; the payload is not there");
  }
  return mappings_[tensor.file];
}

const MappedFile& Checkpoint::mapping(const CheckpointTensor& tensor) const {
  return *share_mapping(tensor);
}

std::span<const std::byte> Checkpoint::data(const CheckpointTensor& tensor) const {
  return mapping(tensor).bytes().subspan(static_cast<std::size_t>(tensor.begin),
                                         static_cast<std::size_t>(tensor.bytes()));
}

}  // namespace jang
