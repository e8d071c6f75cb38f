// The end of a conversion: from a plan and the sums of its tensors to the documents beside the
// shards. Relies on plan/plan_document.h for what each of them says; leaves the shards alone.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "arch/config.h"
#include "convert/convert.h"
#include "convert/stream_panels.h"
#include "plan/plan.h"
#include "plan/plan_document.h"

namespace jang {

/// CRC-32 of every output tensor, or of those of one shard.
std::map<std::string, uint32_t> output_checksums(const Plan& plan, uint32_t shard,
                                                 const TensorSums& sums);
std::map<std::string, uint32_t> output_checksums(const Plan& plan, const TensorSums& sums);

/// Writes index, config.json and, last, jang_config.json into `directory`, which has none of them,
/// and adds their names, the lattices and the size to `report`. `record`: but for source_dtype,
/// lattices and checksums, which follow from plan and sums.
void write_documents(const std::filesystem::path& directory, const Plan& plan,
                     const ModelConfig& source, const TensorSums& sums, ConversionRecord record,
                     ConvertReport& report);

}  // namespace jang
