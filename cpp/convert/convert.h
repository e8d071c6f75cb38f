// The conversion job: plan -> shards -> documents, streaming panels of rows, in a directory that is
// not yet the output (Python prepares OUTPUT.partial, copies tokenizer files, hashes and renames;
// see python/jang_tools/convert.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "calibrate/candidate_losses.h"
#include "calibrate/column_weights.h"
#include "plan/plan.h"
#include "plan/plan_document.h"
#include "quant/quantize.h"

namespace jang {

struct SourceFeed;

/// What `gptq` solves against: token ids [sequences][tokens], and where they come from.
struct CalibrationInput {
  std::vector<int32_t> ids;
  int64_t tokens = 0;            // of a sequence
  std::string text;              // bare name, or "builtin"
  std::string sha256;            // of the text
  std::string tokens_sha256;     // of `ids`; only plan files look at it
  uint64_t asked_sequences = 0;  // the text may have had fewer; likewise
  bool two_streams = true;       // see SolveModelOptions
};

/// What weights the columns of `mse`, and where it comes from.
struct StatisticsInput {
  MeanSquaresByPath mean_squares;
  std::string file;    // bare name
  std::string sha256;  // of the file
};

struct ConvertOptions {
  PlanOptions plan;  // its lattices are looked for, unless the method is kRtn
  Method method = Method::kMse;
  std::optional<CalibrationInput> calibration;  // present: method gptq, whatever `method` says
  std::optional<StatisticsInput> statistics;    // recorded; with kMse also used
  int threads = 0;                              // 0: default_thread_count()
  std::string source_name;                      // recorded; never a path
  std::string source_revision;
  bool think_in_template = false;
  std::string generator_version;
  /// What the bytes of the conversion depend on, as text. What an interrupted one with the same key
  /// left in the directory is taken up.
  std::optional<std::string> resume_key;
  /// Without calibration: source bytes behind which the state is written down; 0: those of about 20
  /// seconds.
  uint64_t resume_stretch = 0;
  /// Without calibration: brings the weight files, of which the source has sizes and headers.
  const SourceFeed* feed = nullptr;
};

struct ConvertReport {
  Plan plan;  // as run
  uint64_t file_bytes = 0;
  double seconds = 0;
  LatticeSummary lattices;         // tensors stored on the lattice of their source
  std::vector<std::string> files;  // bare names written, in order
  std::vector<std::string> warnings;
};

/// Opens the source, refuses what cannot be converted, plans. Shared by `plan` and `convert`.
/// `headers_only`: for `jang plan`; then also a bare config.json + index works.
struct PlannedSource {
  ModelConfig config;
  Plan plan;
};
PlannedSource plan_directory(const std::filesystem::path& source, const PlanOptions& options,
                             bool headers_only);

/// Measured losses for PlanOptions::losses (calibrate/candidate_losses.h), weighted by
/// `statistics`.
MeasuredLosses measure_losses(const std::filesystem::path& source,
                              const StatisticsInput& statistics, const LossOptions& options,
                              int threads, const JobCallbacks& callbacks);

/// The weight files in which a stored head is compared with the embedding that config.json ties it
/// to, before anything is planned; mostly none. Headers suffice.
std::vector<std::string> compared_files(const std::filesystem::path& source);

/// Bytes that the state for resuming takes at most, beside the shards: of `tokens` calibration
/// tokens in so many streams.
uint64_t resume_bytes(const std::filesystem::path& source, uint64_t tokens, int streams);

/// Writes shards, index, config.json and, last, jang_config.json into `partial`, which exists and
/// holds none of them. With a `resume_key`, shards and state that an earlier conversion left there
/// are continued or removed, and the state of this one stays, for the caller to remove. Memory:
/// O(threads * panel), independent of the model; source pages are dropped behind.
ConvertReport convert_directory(const std::filesystem::path& source,
                                const std::filesystem::path& partial, const ConvertOptions& options,
                                const JobCallbacks& callbacks);

}  // namespace jang
