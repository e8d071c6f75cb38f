// The documents a plan turns into: what goes into the written directory. Byte-stable: same plan,
// same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "plan/plan.h"

namespace jang {

/// Name in `generator` of the directories that this program writes.
inline constexpr std::string_view kGeneratorName = "jang-tools";

/// config.json of the output: the source's, completed by the family, with the per-module map
/// (format.md 4.3).
std::string output_config_json(const Plan& plan, const ModelConfig& source);

/// model.safetensors.index.json.
std::string output_index_json(const Plan& plan);

/// The experts of a stack, by what few tokens left possible.
struct ExpertWays {
  uint64_t solved = 0;    // gptq
  uint64_t weighted = 0;  // mse, columns weighted by the diagonal of H
  uint64_t plain = 0;     // mse: no token went there

  void merge(const ExpertWays& other) noexcept {
    solved += other.solved;
    weighted += other.weighted;
    plain += other.plain;
  }
};

/// How one tensor got its codes. `error`: tr(E H E^T) / tr(W H W^T) over the calibration tokens.
/// Of a stack of experts lambda and error are means over those that were solved.
struct SolverRecord {
  std::string solver;  // "gptq", or "mse" where nothing was solved
  double lambda = 0;   // damping, a share of the mean diagonal of H
  double alpha = 0;    // share of the correction for inherited error
  double error = 0;
  std::optional<ExpertWays> experts = std::nullopt;
};

/// A tensor that was stored on the lattice of its source.
struct LatticeRecord {
  uint64_t groups = 0;
  uint64_t lossless_groups = 0;  // the others: mse
};

/// Sums over the tensors on lattices.
struct LatticeSummary {
  uint64_t tensors = 0, lossless_tensors = 0;
  uint64_t groups = 0, lossless_groups = 0;
  double share() const noexcept {
    return groups == 0 ? 0.0 : static_cast<double>(lossless_groups) / static_cast<double>(groups);
  }
};
using LatticeRecords = std::map<std::string, LatticeRecord, std::less<>>;  // by path
LatticeSummary summarize(const LatticeRecords& lattices) noexcept;

/// How many calibration tokens went to each routed expert, over all layers.
struct ExpertCoverage {
  uint64_t experts = 0;
  uint64_t least = 0;
  uint64_t low = 0;  // one expert in a hundred has at most these
  uint64_t median = 0;
};

/// What a conversion was calibrated on.
struct CalibrationRecord {
  std::string text;    // bare name, or "builtin"
  std::string sha256;  // of the text
  uint64_t sequences = 0;
  uint64_t tokens = 0;  // of each sequence
  uint64_t streams = 2;
  std::map<std::string, SolverRecord> tensors;           // by path
  std::optional<ExpertCoverage> experts = std::nullopt;  // of a model that has routed ones
};

/// Statistics of inputs that weighted columns or losses.
struct StatisticsRecord {
  std::string file;      // bare name
  std::string sha256;    // of the file
  uint64_t modules = 0;  // that it says something about
};

/// The directory that another one was made of without quantizing anything.
struct UpgradeRecord {
  std::string format;          // "jang-v1", "jang", "mlx"
  std::string format_version;  // as it stated it, or empty
  std::string generator;       // likewise
};

struct ConversionRecord {
  std::string method;           // what really ran: "rtn", "mse", "gptq"; of an upgrade as it was
  std::string source_name;      // directory name or org/name, never a path
  std::string source_revision;  // of a Hub source, or empty
  DType source_dtype = DType::kBF16;
  std::optional<CalibrationRecord> calibration;
  std::optional<StatisticsRecord> statistics;
  std::optional<UpgradeRecord> upgrade;
  LatticeRecords lattices;
  std::map<std::string, uint32_t> checksums;  // tensor -> CRC-32 of its payload
  bool think_in_template = false;             // what the chat template shows
  std::string generator_version;
};
/// jang_config.json (format.md 4.4).
std::string jang_config_json(const Plan& plan, const ModelConfig& source,
                             const ConversionRecord& record);

}  // namespace jang
