// A planned conversion as one JSON document, so that its shards can be made apart: the options, the
// source by size and hash, every tensor's width and shard, and a checksum over all of it.
//
// Relies on plan/plan_record.h for the plan itself; leaves hashes of the source to Python, which
// computes and compares them (python/jang_tools/plan_file.py), and the making to planned_shards.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/convert.h"
#include "plan/plan.h"
#include "plan/plan_document.h"
#include "quant/quantize.h"

namespace jang {

/// A file of the source. `sha256`: of the header of a *.safetensors file, else of the whole.
struct SourceFile {
  std::string name;  // bare
  uint64_t bytes = 0;
  std::string sha256;
};

struct PlanFile {
  std::string version;  // of the program that made it
  std::string source_name, source_revision;
  std::vector<SourceFile> files;  // config.json among them
  /// Whether a head that is stored beside the embedding that it is tied to equals it.
  std::optional<bool> heads_equal;
  PlanOptions options;
  Method method = Method::kMse;
  std::optional<StatisticsRecord> statistics;
  Plan plan;
  uint32_t checksum = 0;  // of the document without it; a reader's is the one that was read
};

/// With its checksum, whatever `file.checksum` is. Same plan, same text.
std::string plan_file_text(const PlanFile& file);

/// The checksum that plan_file_text gives it.
uint32_t plan_file_checksum(const PlanFile& file);

/// Throws Error{kConfigSyntax | kConfigValue | kChecksum} naming `name` for what plan_file_text
/// does not write.
PlanFile parse_plan_file(std::string_view text, const std::string& name);

struct PlanFileOptions {
  PlanOptions plan;  // its lattices are looked for with `read_weights`
  Method method = Method::kMse;
  bool read_weights = false;
  std::optional<StatisticsInput> statistics;
  std::vector<SourceFile> files;
  std::string source_name, source_revision;
  std::string version;
  int threads = 0;  // for read_weights; 0: default_thread_count()
};

/// Plans the conversion of `source`, whose weight files must be there. Without `read_weights` it
/// reads headers, and the payloads of a head and the embedding that it is said to be tied to.
/// Throws as convert_directory does before it writes.
PlanFile make_plan_file(const std::filesystem::path& source, const PlanFileOptions& options,
                        const JobCallbacks& callbacks);

}  // namespace jang
