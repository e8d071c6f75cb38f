// A whole directory from one input: its files are written, opened as a model, JANG v1 made one that
// runs, and every payload is read to its last byte. What is quantized is then taken apart as an
// upgrade does, its map mended.
//
// The input is a list of files, each opened by "\n@@" and a letter:
//
//     c config.json    j jang_config.json    i model.safetensors.index.json
//     m model.safetensors    x x.safetensors    y y.safetensors
//
// A weight file is its header's text, then "\n$$" and its payload; the header's length is put in
// front, so that a mutated text still reaches the rules behind the first.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

#include "arch/directory.h"
#include "arch/stored_model.h"
#include "base/error.h"

namespace {

namespace fs = std::filesystem;

const std::map<char, std::string> kNames{
    {'c', "config.json"},       {'j', "jang_config.json"}, {'i', "model.safetensors.index.json"},
    {'m', "model.safetensors"}, {'x', "x.safetensors"},    {'y', "y.safetensors"},
};
constexpr std::string_view kFileMark = "\n@@";
constexpr std::string_view kPayloadMark = "\n$$";

class Directory {
 public:
  Directory() {
    const fs::path memory = "/dev/shm";
    std::error_code error;
    path_ = (fs::is_directory(memory, error) ? memory : fs::temp_directory_path()) /
            ("jang_fuzz_" + std::to_string(getpid()));
    fs::create_directory(path_);
  }
  ~Directory() { fs::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  void clear() const {
    for (const auto& [letter, name] : kNames) fs::remove(path_ / name);
  }
  void put(const std::string& name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string weight_file(std::string_view section) {
  const std::size_t mark = section.find(kPayloadMark);
  const std::string_view header = section.substr(0, mark);
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>(static_cast<unsigned char>(uint64_t{header.size()} >> (8 * i)));
  }
  file.append(header);
  if (mark != std::string_view::npos) file.append(section.substr(mark + kPayloadMark.size()));
  return file;
}

void write_files(const Directory& directory, std::string_view input) {
  for (std::size_t at = input.find(kFileMark); at != std::string_view::npos;) {
    input.remove_prefix(at + kFileMark.size());
    at = input.find(kFileMark);
    const std::string_view section = input.substr(0, at);
    const auto name = section.empty() ? kNames.end() : kNames.find(section.front());
    if (name == kNames.end()) continue;
    const bool weights = name->second.ends_with(".safetensors");
    directory.put(name->second,
                  weights ? weight_file(section.substr(1)) : std::string(section.substr(1)));
  }
}

void read_everything(const fs::path& path) {
  jang::ModelDirectory directory = jang::open_model_directory(path);
  if (directory.format == jang::DirectoryFormat::kJangV1) jang::present_v1(directory);
  unsigned sum = 0;
  for (const jang::CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    for (const std::byte b : directory.checkpoint.data(tensor)) sum += std::to_integer<unsigned>(b);
  }
  for (const jang::QuantizedModule& module : directory.modules) {
    for (const auto* tensor : {module.weight, module.scales, module.biases}) {
      sum += static_cast<unsigned>(directory.checkpoint.data(*tensor).size());
    }
  }
  jang::eos_token_ids(directory);
  [[maybe_unused]] volatile unsigned sink = sum;  // the reads must not be optimised away
}

void take_apart(const fs::path& path) {
  const jang::ModelDirectory directory = jang::open_model_directory(
      path, jang::Checkpoint::Access::kMapped, jang::MapReading::kMended);
  if (directory.format == jang::DirectoryFormat::kHf) return;
  const jang::StoredModel model = jang::stored_model(directory);
  jang::RowsScratch scratch;
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    if (!model.tensors[i].format) continue;
    const jang::FinalTensor& tensor = model.inventory.tensors[i];
    jang::read_rows(directory, model, model.tensors[i], 0, tensor.elements() / tensor.columns(),
                    scratch);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const Directory directory;
  directory.clear();
  write_files(directory, std::string_view(reinterpret_cast<const char*>(data), size));
  for (const auto access :
       {jang::Checkpoint::Access::kMapped, jang::Checkpoint::Access::kHeadersOnly}) {
    try {
      if (access == jang::Checkpoint::Access::kMapped) {
        read_everything(directory.path());
        take_apart(directory.path());
      } else {
        jang::open_model_directory(directory.path(), access);
      }
    } catch (const jang::Error& e) {
      if (e.message().empty()) std::abort();
    }
  }
  return 0;
}
