// The parts of `verify`, each about one kind of evidence. They share what was found on disk and the
// list that faults go to.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "base/thread_pool.h"
#include "convert/panels.h"
#include "convert/source.h"
#include "convert/verify.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/safetensors_header.h"
#include "plan/plan_document.h"

namespace jang {

/// A weight file whose own header is sound, whatever the rest of the directory is like.
struct WeightFile {
  std::string name;
  std::shared_ptr<const MappedFile> map;
  SafetensorsHeader header;
};

struct Examined {
  std::filesystem::path path;
  Verification result;
  std::vector<WeightFile> files;
  std::set<std::string> file_names;         // of all weight files, sound or not
  std::optional<ModelDirectory> directory;  // absent if it cannot be opened as a whole
  std::optional<Json> jang_config;          // also if the directory cannot be opened
  bool ours = false;                        // written by this program
  bool v1 = false;                          // JANG v1; `directory` shows it as v2

  void fault(ErrorCode code, std::string file, std::string tensor, std::string message);
  /// Adds an error as a fault, unless the same one is there already.
  void fault(const Error& error);
  void notice(std::string text) { result.notices.push_back(std::move(text)); }
};

/// Opens the directory and, apart from that, every weight file of it. Throws what is no fault of
/// the content: no such directory, a format that is refused by name.
Examined examine_directory(const std::filesystem::path& path);

/// Stray weight files, index, layout of our files, tensors against the architecture.
void verify_structure(Examined& examined);
/// The manifest and the sums of jang_config.json against the tensors.
void verify_manifest(Examined& examined);
/// CRC-32 of every payload, and finite values in every float tensor.
void verify_payloads(Examined& examined, ThreadPool& pool, JobProgress& progress);
/// Dequantized values against the source; plain tensors equal to it.
void verify_values(Examined& examined, const ConversionSource& source, ThreadPool& pool,
                   JobProgress& progress);

}  // namespace jang
