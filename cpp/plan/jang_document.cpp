// jang_config.json: what was done, tensor by tensor, so that readers need not guess and `verify`
// can check.
#include <set>

#include "io/checksum.h"
#include "plan/capabilities.h"
#include "plan/plan_document.h"

namespace jang {
namespace {

Json shape_json(const std::vector<uint64_t>& shape) {
  Json::Array out;
  for (const uint64_t d : shape) out.emplace_back(d);
  return out;
}

struct Traits {
  bool attention = false, recurrent = false, experts = false;
};

Traits traits_of(const Plan& plan) {
  Traits traits;
  for (const PlannedTensor& planned : plan.tensors) {
    const Role role = planned.tensor.role.role;
    traits.attention = traits.attention || role == Role::kAttention;
    traits.recurrent = traits.recurrent || role == Role::kLinearAttention || role == Role::kSsm;
    traits.experts = traits.experts || role == Role::kExpert;
  }
  return traits;
}

std::string architecture_type(const Traits& traits) {
  if (traits.recurrent && !traits.attention) return "mamba";
  if (traits.recurrent) return traits.experts ? "hybrid_moe_ssm" : "hybrid_ssm";
  return traits.experts ? "moe" : "transformer";
}

std::string attention_kind(const Traits& traits, const ModelConfig& source) {
  if (!traits.attention) return "none";
  if (source.find("kv_lora_rank") != nullptr) return "mla";
  const auto heads = source.integer("num_attention_heads", 0, ModelConfig::kMaxHeads);
  const auto kv_heads = source.integer("num_key_value_heads", 0, ModelConfig::kMaxHeads);
  if (!heads || !kv_heads || *heads == *kv_heads) return "mha";
  return *kv_heads == 1 ? "mqa" : "gqa";
}

std::string cache_type(const Traits& traits, const std::string& attention) {
  if (traits.recurrent) return traits.attention ? "hybrid" : "mamba";
  return attention == "mla" ? "mla" : "kv";
}

/// What `calibration_method` names: "none", or the text or the statistics and their hash.
std::string calibration_name(const ConversionRecord& record) {
  if (record.calibration) return record.calibration->text + " sha256:" + record.calibration->sha256;
  if (record.statistics) return record.statistics->file + " sha256:" + record.statistics->sha256;
  return "none";
}

Json statistics_json(const StatisticsRecord& statistics) {
  Json out;
  out["file"] = statistics.file;
  out["sha256"] = statistics.sha256;
  out["modules"] = statistics.modules;
  return out;
}

Json ways_json(const ExpertWays& ways) {
  Json out;
  out["solved"] = ways.solved;
  out["weighted"] = ways.weighted;
  out["plain"] = ways.plain;
  return out;
}

Json calibration_json(const CalibrationRecord& calibration) {
  Json out;
  out["text"] = calibration.text;
  out["sha256"] = calibration.sha256;
  out["sequences"] = calibration.sequences;
  out["tokens_per_sequence"] = calibration.tokens;
  out["tokens"] = calibration.sequences * calibration.tokens;
  out["streams"] = calibration.streams;
  out["seed"] = nullptr;  // nothing is drawn: sequences are spread evenly over the text
  if (!calibration.experts) return out;
  Json& experts = out["experts"];
  experts["count"] = calibration.experts->experts;
  experts["tokens_least"] = calibration.experts->least;
  experts["tokens_1_percent"] = calibration.experts->low;
  experts["tokens_median"] = calibration.experts->median;
  ExpertWays ways;
  for (const auto& [path, tensor] : calibration.tensors) {
    if (tensor.experts) ways.merge(*tensor.experts);
  }
  experts["matrices"] = ways_json(ways);
  return out;
}

Json lattices_json(const LatticeSummary& lattices) {
  Json out;
  out["tensors"] = lattices.tensors;
  out["lossless_tensors"] = lattices.lossless_tensors;
  out["groups"] = lattices.groups;
  out["lossless_groups"] = lattices.lossless_groups;
  out["share"] = lattices.share();
  return out;
}

void add_solver(Json& entry, const ConversionRecord& record, const std::string& path) {
  if (const auto at = record.lattices.find(path); at != record.lattices.end()) {
    entry["solver"] = "lattice";
    entry["groups"] = at->second.groups;
    entry["lossless_groups"] = at->second.lossless_groups;
    return;
  }
  const SolverRecord* found = nullptr;
  if (record.calibration) {
    const auto at = record.calibration->tensors.find(path);
    if (at != record.calibration->tensors.end()) found = &at->second;
  }
  entry["solver"] = found != nullptr ? found->solver : record.method;
  if (found != nullptr && found->experts) entry["experts"] = ways_json(*found->experts);
  if (found == nullptr || found->solver != "gptq") return;
  entry["lambda"] = found->lambda;
  entry["alpha"] = found->alpha;
  entry["error"] = found->error;
}

Json manifest_json(const Plan& plan, const ConversionRecord& record) {
  Json manifest = Json::Object{};
  const auto count = static_cast<uint32_t>(plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard) {
    for (const ShardTensor& piece : shard_tensors(plan, shard)) {
      if (piece.piece == ShardTensor::Piece::kPlain) continue;
      const PlannedTensor& planned = plan.tensors[piece.planned];
      Json& entry = manifest[planned.tensor.path];
      const char* part = piece.piece == ShardTensor::Piece::kCodes    ? "weight"
                         : piece.piece == ShardTensor::Piece::kScales ? "scales"
                                                                      : "biases";
      entry[std::string(part) + "_key"] = piece.name;
      entry[std::string(part) + "_shape"] = shape_json(piece.shape);
      if (piece.piece != ShardTensor::Piece::kCodes) continue;
      entry["source_tensor"] = planned.tensor.source;
      entry["bits"] = planned.format->bits;
      entry["group_size"] = planned.format->group_size;
      entry["shape"] = shape_json(planned.tensor.shape);
      entry["role"] = role_name(planned.tensor.role.role);
      add_solver(entry, record, planned.tensor.path);
    }
  }
  return manifest;
}

Json allocation_json(const Allocation& allocation) {
  Json out;
  out["requested_bits"] = nullptr;
  if (allocation.requested_bits) out["requested_bits"] = *allocation.requested_bits;
  out["requested_bytes"] = allocation.requested_bytes;
  out["lowest_bytes"] = allocation.lowest_bytes;
  out["highest_bytes"] = allocation.highest_bytes;
  out["losses"] = allocation.measured ? "measured" : "prior";
  Json& floors = out["floors"];
  floors = Json::Object{};
  for (const FloorRow& row : allocation.floors) {
    Json& entry = floors[row.name];
    entry["table_bits"] = row.wanted;
    entry["bits"] = row.bits;
    entry["modules"] = row.modules;
    entry["binding"] = row.binding;
  }
  return out;
}

Json quantization_json(const Plan& plan, const ConversionRecord& record) {
  std::set<int> widths;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format) widths.insert(planned.format->bits);
  }
  Json::Array width_list;
  for (const int bits : widths) width_list.emplace_back(bits);

  Json out;
  out["profile"] = nullptr;  // of an upgrade it may be unknown
  if (!plan.profile.empty()) out["profile"] = plan.profile;
  out["target_bits"] = plan.target_bits.value_or(plan.average_bits);
  out["actual_bits"] = plan.average_bits;
  out["bits_per_weight"] = plan.bits_per_weight;
  out["block_size"] = plan.global.group_size;
  out["bit_widths_used"] = width_list;
  out["quantization_method"] = record.method;
  out["calibration_method"] = calibration_name(record);
  if (record.calibration) out["calibration"] = calibration_json(*record.calibration);
  if (record.statistics) out["statistics"] = statistics_json(*record.statistics);
  if (!record.lattices.empty()) out["lattices"] = lattices_json(summarize(record.lattices));
  out["hadamard_rotation"] = false;
  if (plan.allocation) out["allocation"] = allocation_json(*plan.allocation);
  Json manifest = manifest_json(plan, record);
  out["tensor_quantization_manifest_schema"] = 1;
  out["tensor_quantization_manifest_count"] = static_cast<uint64_t>(manifest.as_object().size());
  out["tensor_quantization_manifest"] = std::move(manifest);
  return out;
}

}  // namespace

LatticeSummary summarize(const LatticeRecords& lattices) noexcept {
  LatticeSummary sum;
  for (const auto& [path, lattice] : lattices) {
    ++sum.tensors;
    if (lattice.lossless_groups == lattice.groups) ++sum.lossless_tensors;
    sum.groups += lattice.groups;
    sum.lossless_groups += lattice.lossless_groups;
  }
  return sum;
}

namespace {

Json upgrade_json(const UpgradeRecord& upgrade) {
  const auto text = [](const std::string& value) { return value.empty() ? Json() : Json(value); };
  Json out;
  out["format"] = upgrade.format;
  out["format_version"] = text(upgrade.format_version);
  out["generator"] = text(upgrade.generator);
  return out;
}

}  // namespace

std::string jang_config_json(const Plan& plan, const ModelConfig& source,
                             const ConversionRecord& record) {
  const Traits traits = traits_of(plan);
  const std::string type = architecture_type(traits);
  const std::string attention = attention_kind(traits, source);

  Json out;
  out["format"] = "jang";
  out["format_version"] = "2.0";
  out["quantization"] = quantization_json(plan, record);

  Json& model = out["source_model"];
  model["name"] = record.source_name;
  model["revision"] = nullptr;
  if (!record.source_revision.empty()) model["revision"] = record.source_revision;
  model["dtype"] = config_dtype_word(record.source_dtype);
  model["parameters"] = plan.parameters;
  model["architecture"] = source.model_type();

  Json& architecture = out["architecture"];
  architecture["type"] = type;
  architecture["attention"] = attention;
  architecture["has_vision"] = false;
  architecture["has_ssm"] = traits.recurrent;
  architecture["has_moe"] = traits.experts;

  Json& runtime = out["runtime"];
  runtime["total_weight_bytes"] = plan.file_bytes;
  runtime["total_weight_gb"] = static_cast<double>(plan.file_bytes) / 0x1p30;

  Json& checksums = out["checksums"];
  checksums["algorithm"] = "crc32";
  Json& sums = checksums["tensors"];
  sums = Json::Object{};
  for (const auto& [name, crc] : record.checksums) sums[name] = crc32_text(crc);

  if (record.upgrade) out["upgraded_from"] = upgrade_json(*record.upgrade);
  Json& generator = out["generator"];
  generator["name"] = kGeneratorName;
  generator["version"] = record.generator_version;
  out["capabilities"] =
      capabilities_json(source, type, cache_type(traits, attention), record.think_in_template);
  return dump_json(out);
}

}  // namespace jang
