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
#include "convert/source.h"
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

/// What `gptq` solves against, by hash: token ids, and all else that decides what they do.
struct PlannedCalibration {
  std::string text, sha256;      // as CalibrationInput
  std::string tokens_sha256;     // of all ids as little-endian 32-bit integers
  uint64_t asked_sequences = 0;  // they were cut for so many; `sequences` the text had
  uint64_t sequences = 0, tokens = 0, streams = 2;
  std::string level;  // of the kernels: another adds in another order
};

struct PlanFile {
  std::string version;  // of the program that made it
  std::string source_name, source_revision;
  std::vector<SourceFile> files;  // config.json among them
  /// Whether a head that is stored beside the embedding that it is tied to equals it.
  std::optional<bool> heads_equal;
  PlanOptions options;
  Method method = Method::kMse;
  std::optional<PlannedCalibration> calibration;  // present: method gptq, whatever `method` says
  std::optional<StatisticsRecord> statistics;
  Plan plan;
  uint32_t checksum = 0;  // of the document without it; a reader's is the one that was read
};

/// "rtn", "mse" or "gptq".
std::string planned_method(const PlanFile& file);

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
  std::optional<CalibrationInput> calibration;  // as in ConvertOptions; weights are read then, too
  std::filesystem::path scratch;                // a directory for files without a name
  std::optional<StatisticsInput> statistics;
  std::vector<SourceFile> files;
  std::string source_name, source_revision;
  std::string version;
  int threads = 0;  // for read_weights; 0: default_thread_count()
};

/// Plans the conversion of `source`, whose weight files must be there. Without `read_weights` it
/// reads headers, and the payloads of a head and the embedding that it is said to be tied to. With
/// a calibration and a target it runs the model over the tokens, to measure what widths cost.
/// Throws as convert_directory does before it writes.
PlanFile make_plan_file(const std::filesystem::path& source, const PlanFileOptions& options,
                        const JobCallbacks& callbacks);

/// The calibration of a plan for `input`, by this process.
PlannedCalibration planned_calibration(const CalibrationInput& input);

/// Plans `source` again as `file` says, with the places of all tensors in it. Throws
/// Error{kArgument} naming `plan_name` where this program plans other widths or shards.
Plan plan_again(const PlanFile& file, const std::string& plan_name, const ConversionSource& source);

}  // namespace jang
