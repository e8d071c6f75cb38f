// Every payload byte is read once, in panels over all threads: its CRC-32, and, of floats, whether
// they are finite. Pages are given back behind.
#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "convert/values.h"
#include "convert/verify_parts.h"
#include "io/checksum.h"

namespace jang {
namespace {

struct Payload {
  const WeightFile* file = nullptr;
  const TensorInfo* tensor = nullptr;
};

constexpr uint64_t kNone = UINT64_MAX;

struct PanelFinding {
  uint32_t crc = 0;
  uint64_t non_finite = kNone;  // index of the first such element in the tensor
};

const Json* checksum_table(const Examined& examined) {
  if (!examined.jang_config) return nullptr;
  const Json* checksums = examined.jang_config->find("checksums");
  const Json* algorithm = checksums != nullptr ? checksums->find("algorithm") : nullptr;
  if (algorithm == nullptr || !algorithm->is_string() || algorithm->as_string() != "crc32") {
    return nullptr;
  }
  const Json* tensors = checksums->find("tensors");
  return tensors != nullptr && tensors->is_object() ? tensors : nullptr;
}

PanelFinding look_at(const Payload& payload, const Panel& panel) {
  const auto size = static_cast<uint64_t>(dtype_size(payload.tensor->dtype));
  const uint64_t begin = payload.tensor->begin + panel.column * size;
  const auto bytes = payload.file->map->bytes().subspan(begin, panel.bytes);
  PanelFinding finding;
  finding.crc = crc32_of(bytes);
  if (const auto bad = find_non_finite({bytes.data(), payload.tensor->dtype, 1, panel.columns})) {
    finding.non_finite = panel.column + bad->column;
  }
  payload.file->map->drop(begin, panel.bytes);
  return finding;
}

void judge(Examined& examined, const Payload& payload, uint32_t crc, const Json* table) {
  if (table == nullptr) return;
  const std::string& name = payload.tensor->name;
  const Json* expected = table->find(name);
  if (expected == nullptr || !expected->is_string()) {
    examined.fault(ErrorCode::kChecksum, payload.file->name, name, "has no checksum");
  } else if (expected->as_string() != crc32_text(crc)) {
    examined.fault(ErrorCode::kChecksum, payload.file->name, name,
                   "expected CRC-32 " + expected->as_string() + ", found " + crc32_text(crc));
  }
}

}  // namespace

void verify_payloads(Examined& examined, ThreadPool& pool, JobProgress& progress) {
  std::vector<Payload> payloads;
  std::vector<Panel> panels;
  for (const WeightFile& file : examined.files) {
    for (const TensorInfo& tensor : file.header.tensors) {
      cut_panels(static_cast<uint32_t>(payloads.size()), 1, tensor.elements(),
                 static_cast<uint64_t>(dtype_size(tensor.dtype)), panels);
      payloads.push_back({&file, &tensor});
    }
  }
  std::vector<PanelFinding> findings(panels.size());
  const auto name = [&](uint32_t i) -> std::string_view { return payloads[i].tensor->name; };
  for_each_panel(pool, panels, progress, name, [&](std::size_t i, int) {
    findings[i] = look_at(payloads[panels[i].tensor], panels[i]);
  });

  const Json* table = checksum_table(examined);
  if (table == nullptr) {
    if (examined.ours) {
      examined.fault(ErrorCode::kChecksum, "jang_config.json", {}, "checksums are missing");
    } else {
      examined.notice("no checksums of tensors to compare with");
    }
  }
  std::vector<uint32_t> sums(payloads.size(), crc32_of({}));
  std::vector<uint64_t> non_finite(payloads.size(), kNone);
  for (std::size_t i = 0; i < panels.size(); ++i) {
    uint32_t& sum = sums[panels[i].tensor];
    sum = crc32_join(sum, findings[i].crc, panels[i].bytes);
    uint64_t& bad = non_finite[panels[i].tensor];
    bad = std::min(bad, findings[i].non_finite);
  }
  std::size_t named = 0;
  for (std::size_t i = 0; i < payloads.size(); ++i) {
    const Payload& payload = payloads[i];
    judge(examined, payload, sums[i], table);
    if (table != nullptr && table->find(payload.tensor->name) != nullptr) ++named;
    if (non_finite[i] != kNone) {
      const auto& shape = payload.tensor->shape;
      const uint64_t columns = shape.empty() ? 1 : shape.back();
      examined.fault(ErrorCode::kNonFinite, payload.file->name, payload.tensor->name,
                     "row " + std::to_string(non_finite[i] / columns) + ", column " +
                         std::to_string(non_finite[i] % columns) +
                         ": expected a finite value, found NaN or infinity");
    }
  }
  // Only a directory whose files are all readable can say that a checksum has no tensor.
  if (table != nullptr && examined.directory && table->as_object().size() != named) {
    examined.fault(ErrorCode::kChecksum, examined.directory->jang_config_file, {},
                   "checksums of " + std::to_string(table->as_object().size() - named) +
                       " tensors that do not exist");
  }
}

}  // namespace jang
