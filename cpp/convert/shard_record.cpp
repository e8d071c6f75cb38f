#include "convert/shard_record.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "convert/resume_record.h"
#include "io/checksum.h"
#include "io/file_names.h"
#include "io/json_fields.h"
#include "io/record_file.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSchema = "jang.shard-record/1";

/// Bytes of the three payloads of a tensor.
std::array<uint64_t, kMaxPieces> piece_bytes(const PlannedTensor& planned) {
  if (!planned.format) return {planned.bytes(), 0, 0};
  const uint64_t columns = planned.tensor.columns();
  const uint64_t rows = planned.tensor.elements() / columns;
  const AffineFormat& format = *planned.format;
  const uint64_t groups =
      rows * format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
  return {rows * format.row_bytes(columns), groups, groups};
}

void check_sums(const JsonFields& fields, const PlannedTensor& planned, const PanelSums& sums) {
  if (sums.bytes != piece_bytes(planned)) fields.fail("the bytes of the plan");
  const uint64_t values = value_bytes(planned.tensor, whole_panel(0, planned.tensor));
  if (sums.source_bytes != values) fields.fail("source_bytes " + std::to_string(values));
  const uint64_t groups = planned.lattice ? planned.tensor.elements() /
                                                static_cast<uint64_t>(planned.format->group_size)
                                          : 0;
  if (sums.lossless_groups > groups)
    fields.fail("at most " + std::to_string(groups) + " lossless_groups");
}

}  // namespace

std::string shard_record_name(uint32_t shard, uint32_t count) {
  constexpr std::string_view kEnd = ".safetensors";
  std::string name = shard_file_name(shard, count);
  name.resize(name.size() - kEnd.size());
  return name + ".record";
}

Json shard_record_json(const PlanFile& plan, uint32_t shard, const TensorSums& done) {
  Json tensors = Json::Object{};
  for (const auto& [index, sums] : done)
    tensors[plan.plan.tensors[index].tensor.name] = sums_json(sums);
  const auto count = static_cast<uint32_t>(plan.plan.shards.size());
  return Json::Object{{"schema", kSchema},
                      {"plan", crc32_text(plan.checksum)},
                      {"shard", shard_file_name(shard, count)},
                      {"tensors", std::move(tensors)}};
}

TensorSums parse_shard_record(const Json& json, const PlanFile& plan, uint32_t shard,
                              const std::string& file) {
  const JsonFields fields(json, file, "record");
  if (fields.text("schema") != kSchema) fields.fail("the schema " + std::string(kSchema));
  if (const std::string& found = fields.text("plan"); found != crc32_text(plan.checksum)) {
    throw Error(
        ErrorCode::kOutputExists, file, {},
        "expected a part of the plan " + crc32_text(plan.checksum) + ", found one of " + found,
        "choose another output, or remove the parts that are there");
  }
  const std::string name = shard_file_name(shard, static_cast<uint32_t>(plan.plan.shards.size()));
  if (fields.text("shard") != name) fields.fail("the shard " + name);
  std::map<std::string_view, uint32_t> places;
  for (const uint32_t index : plan.plan.shards[shard])
    places.emplace(plan.plan.tensors[index].tensor.name, index);
  TensorSums done;
  fields.each_member("tensors", [&](const std::string& tensor, const JsonFields& item) {
    const auto found = places.find(tensor);
    if (found == places.end()) item.fail("a tensor of " + name);
    const PanelSums sums = parse_sums(item);
    check_sums(item, plan.plan.tensors[found->second], sums);
    done.emplace(found->second, sums);
  });
  return done;
}

void write_shard_record(const fs::path& directory, const PlanFile& plan, uint32_t shard,
                        const TensorSums& done) {
  const auto count = static_cast<uint32_t>(plan.plan.shards.size());
  RecordFileWriter file(directory / shard_record_name(shard, count));
  file.commit(shard_record_json(plan, shard, done));
}

std::optional<TensorSums> read_shard_record(const fs::path& directory, const PlanFile& plan,
                                            uint32_t shard, const CancelCallback& cancel) {
  const auto count = static_cast<uint32_t>(plan.plan.shards.size());
  const fs::path path = directory / shard_record_name(shard, count);
  if (!is_there(path)) return std::nullopt;
  const RecordFile file = RecordFile::open(path, cancel);
  return parse_shard_record(file.record(), plan, shard, path.string());
}

bool is_whole_shard(const Plan& plan, uint32_t shard, const TensorSums& done) {
  const std::vector<uint32_t>& tensors = plan.shards[shard];
  return std::all_of(tensors.begin(), tensors.end(), [&](uint32_t index) {
    return plan.tensors[index].tensor.elements() == 0 || done.contains(index);
  });
}

}  // namespace jang
