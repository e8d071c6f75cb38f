#include "convert/documents.h"

#include <tuple>
#include <utility>

#include "io/checksum.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

/// The dtype that most source weights have.
DType main_dtype(const Plan& plan) {
  std::map<DType, uint64_t> weights;
  for (const PlannedTensor& planned : plan.tensors)
    weights[planned.tensor.stored_dtype()] += planned.tensor.elements();
  DType most = DType::kBF16;
  uint64_t count = 0;
  for (const auto& [dtype, n] : weights) {
    const bool weight = is_float_weight(dtype) || dtype == DType::kF8E4M3;
    if (n > count && weight) std::tie(most, count) = std::pair(dtype, n);
  }
  return most;
}

LatticeRecords lattice_records(const Plan& plan, const TensorSums& sums) {
  LatticeRecords records;
  for (uint32_t index = 0; index < plan.tensors.size(); ++index) {
    const PlannedTensor& planned = plan.tensors[index];
    if (!planned.lattice) continue;
    const auto group = static_cast<uint64_t>(planned.format->group_size);
    LatticeRecord& record = records[planned.tensor.path];
    record.groups = planned.tensor.elements() / group;
    if (const auto at = sums.find(index); at != sums.end())
      record.lossless_groups = at->second.lossless_groups;
  }
  return records;
}

}  // namespace

std::map<std::string, uint32_t> output_checksums(const Plan& plan, uint32_t shard,
                                                 const TensorSums& sums) {
  std::map<std::string, uint32_t> checksums;
  for (ShardTensor& tensor : shard_tensors(plan, shard)) {
    const auto at = sums.find(tensor.planned);  // tensors without elements have none
    const uint32_t crc =
        at == sums.end() ? crc32_of({}) : at->second.crc[piece_index(tensor.piece)];
    checksums.emplace(std::move(tensor.name), crc);
  }
  return checksums;
}

std::map<std::string, uint32_t> output_checksums(const Plan& plan, const TensorSums& sums) {
  std::map<std::string, uint32_t> checksums;
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard)
    checksums.merge(output_checksums(plan, shard, sums));
  return checksums;
}

void write_documents(const std::filesystem::path& directory, const Plan& plan,
                     const ModelConfig& source, const TensorSums& sums, ConversionRecord record,
                     ConvertReport& report) {
  const auto write = [&](const char* file, const std::string& text) {
    write_file(directory / file, text);
    report.files.emplace_back(file);
  };
  write("model.safetensors.index.json", output_index_json(plan));
  write("config.json", output_config_json(plan, source));
  record.source_dtype = main_dtype(plan);
  record.lattices = lattice_records(plan, sums);
  record.checksums = output_checksums(plan, sums);
  write("jang_config.json", jang_config_json(plan, source, record));
  report.lattices = summarize(record.lattices);
  report.file_bytes = plan.file_bytes;
}

}  // namespace jang
