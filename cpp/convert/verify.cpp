// Opens what can be opened and runs the parts one after another; a fault in one does not keep the
// next from looking.
#include "convert/verify.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include "arch/stored_model.h"
#include "convert/verify_parts.h"
#include "io/safetensors_writer.h"
#include "io/shard_index.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kJangConfig = "jang_config.json";

/// The weight files that the directory names, or else all that lie there.
std::vector<std::string> weight_files(Examined& examined) {
  try {
    if (examined.v1) {
      std::vector<std::string> files = v1_weight_files(examined.path);
      if (!files.empty()) return files;
    }
    ShardIndex index;
    return find_weight_files(examined.path, &index);
  } catch (const Error& error) {
    examined.fault(error);
  }
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator it(examined.path, failed), end; !failed && it != end;
       it.increment(failed)) {
    std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors")) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

void open_files(Examined& examined) {
  for (const std::string& name : weight_files(examined)) {
    examined.file_names.insert(name);
    try {
      WeightFile file{name, MappedFile::open(examined.path / name), {}};
      const auto bytes = file.map->bytes();
      file.header = parse_safetensors_header(bytes, bytes.size(), name);
      examined.files.push_back(std::move(file));
    } catch (const Error& error) {
      examined.fault(error);
    }
  }
}

/// The JANG document by itself, so that checksums count even where the directory does not open.
void read_jang_config(Examined& examined) {
  if (examined.directory && examined.directory->jang_config) {
    examined.jang_config = examined.directory->jang_config;
  } else {
    std::error_code failed;
    if (!fs::is_regular_file(examined.path / kJangConfig, failed)) return;
    try {
      examined.jang_config = parse_json(read_file(examined.path / kJangConfig),
                                        std::string(kJangConfig), ErrorCode::kConfigSyntax);
    } catch (const Error& error) {
      examined.fault(error);
      return;
    }
  }
  const Json* generator = examined.jang_config->find("generator");
  const Json* name = generator != nullptr ? generator->find("name") : nullptr;
  examined.ours = name != nullptr && name->is_string() && name->as_string() == kGeneratorName;
}

uint64_t payload_bytes(const Examined& examined) {
  uint64_t bytes = 0;
  for (const WeightFile& file : examined.files) {
    bytes += file.header.file_bytes - file.header.payload_begin;
  }
  return bytes;
}

uint64_t source_bytes(const ConversionSource& source) {
  uint64_t bytes = 0;
  for (const FinalTensor& tensor : source.inventory.tensors) {
    bytes += tensor.bytes();
  }
  return bytes;
}

}  // namespace

void Examined::fault(ErrorCode code, std::string file, std::string tensor, std::string message) {
  for (const Fault& known : result.faults) {
    if (known.code == code && known.file == file && known.tensor == tensor &&
        known.message == message) {
      return;
    }
  }
  result.faults.push_back({code, std::move(file), std::move(tensor), std::move(message)});
}

void Examined::fault(const Error& error) {
  // Some parts name files by their path, others within the directory; a fault does the latter.
  const std::string prefix = (path / "").string();
  const std::string& file = error.file();
  fault(error.code(), file.starts_with(prefix) ? file.substr(prefix.size()) : file, error.tensor(),
        error.message());
}

Examined examine_directory(const fs::path& path) {
  Examined examined;
  examined.path = path;
  std::error_code failed;
  const bool readable = fs::is_regular_file(path / "config.json", failed);
  try {
    examined.directory = open_model_directory(path);
    examined.v1 = examined.directory->format == DirectoryFormat::kJangV1;
    if (examined.v1) present_v1(*examined.directory);
  } catch (const Error& error) {
    const ErrorKind kind = error.kind();
    if (kind != ErrorKind::kFormat && !(kind == ErrorKind::kIo && readable)) throw;
    examined.fault(error);
    examined.directory.reset();
  }
  open_files(examined);
  read_jang_config(examined);
  return examined;
}

Verification verify_directory(const fs::path& path, const std::optional<fs::path>& against,
                              int threads, const JobCallbacks& callbacks) {
  Examined examined = examine_directory(path);
  std::optional<ConversionSource> source;
  if (against) source = open_source(*against, false);
  ThreadPool pool(threads != 0 ? threads : default_thread_count().threads);
  JobProgress progress{callbacks, payload_bytes(examined) + (source ? source_bytes(*source) : 0)};
  verify_structure(examined);
  verify_manifest(examined);
  verify_payloads(examined, pool, progress);
  if (source) {
    if (examined.directory) {
      verify_values(examined, *source, pool, progress);
    } else {
      examined.notice("not compared with the source: the directory does not open");
    }
  }
  progress.report({});
  return std::move(examined.result);
}

}  // namespace jang
