#include "convert/resume_state.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "arch/config.h"
#include "arch/family.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "convert/convert.h"
#include "io/file_names.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLosses = ".resume-losses";
constexpr const char* kPoint = ".resume-layers";
constexpr std::string_view kKey = "key";

bool is_shard_name(std::string_view name) {
  constexpr std::string_view kBegin = "model-", kMiddle = "-of-", kEnd = ".safetensors";
  const auto number = [&] {
    const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    name.remove_prefix(digits);
    return digits >= 5;
  };
  const auto text = [&](std::string_view expected) {
    if (!name.starts_with(expected)) return false;
    name.remove_prefix(expected.size());
    return true;
  };
  return text(kBegin) && number() && text(kMiddle) && number() && name == kEnd;
}

/// A link goes itself, not what it points to.
void remove_shards(const fs::path& directory) {
  std::vector<fs::path> shards;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (is_shard_name(entry.path().filename().string())) shards.push_back(entry.path());
  for (const fs::path& shard : shards) {
    std::error_code failure;
    if (!fs::remove(shard, failure) && failure)
      throw Error(ErrorCode::kIo, shard.string(), {}, "cannot remove: " + failure.message());
  }
}

/// What may go wrong with a file that is then done without.
template <typename Use>
std::string reason_against(Use&& use) {
  try {
    use();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    return error.what();
  }
  return {};
}

}  // namespace

uint64_t resume_bytes(const fs::path& source, uint64_t tokens, int streams) {
  constexpr uint64_t kFiles = 2;                     // a point, and the one that replaces it
  constexpr uint64_t kRecords = uint64_t{16} << 20;  // names, sums and losses
  const ModelConfig config = ModelConfig::read(source);
  const auto hidden = static_cast<uint64_t>(require_family(config).spec(config).hidden);
  const std::array factors = {kFiles, static_cast<uint64_t>(streams), tokens, hidden,
                              uint64_t{sizeof(float)}};
  const auto bytes = checked_product(factors);
  const auto all = bytes ? checked_add(*bytes, kRecords) : bytes;
  if (!all) throw Error(ErrorCode::kArgument, "calibration: more than 2^64 bytes of tokens");
  return *all;
}

ResumeState::ResumeState(fs::path directory, std::string key, const JobCallbacks& callbacks)
    : directory_(std::move(directory)), key_(std::move(key)), callbacks_(callbacks) {
  const std::string no_losses = reason_against([&] { losses_ = open(directory_ / kLosses); });
  if (!no_losses.empty()) {
    remove_losses();
    start_afresh(no_losses);
    return;
  }
  const std::string no_point = reason_against([&] { point_ = open(directory_ / kPoint); });
  if (!no_point.empty()) {
    start_afresh(no_point);
  } else if (!point_) {
    remove_shards(directory_);
  }
}

std::optional<RecordFile> ResumeState::open(const fs::path& path) const {
  if (!is_there(path)) return std::nullopt;
  RecordFile file = RecordFile::open(path, callbacks_.cancel);
  const Json* key = file.record().find(kKey);
  if (key == nullptr || !key->is_string() || key->as_string() != key_)
    throw Error(ErrorCode::kConfigValue, path.string(), {},
                "of another source, other options or another version");
  return file;
}

Json ResumeState::keyed(Json record) const {
  record[kKey] = key_;
  return record;
}

void ResumeState::notice(const std::string& line) const {
  if (callbacks_.notice) callbacks_.notice(line);
}

void ResumeState::remove_losses() {
  losses_.reset();
  std::error_code ignored;
  fs::remove(directory_ / kLosses, ignored);
}

void ResumeState::start_afresh(const std::string& reason) {
  point_.reset();
  std::error_code ignored;
  fs::remove(directory_ / kPoint, ignored);
  remove_shards(directory_);
  notice("starting afresh: an interrupted conversion was found, but not one to continue: " +
         reason);
}

std::optional<MeasuredLosses> ResumeState::losses(const Plan& plan, std::optional<int> group_size) {
  if (!losses_) return std::nullopt;
  std::optional<MeasuredLosses> found;
  const std::string reason = reason_against([&] {
    found = parse_losses(losses_->record(), plan, group_size, (directory_ / kLosses).string());
  });
  if (reason.empty()) return found;
  remove_losses();
  start_afresh(reason);
  return std::nullopt;
}

void ResumeState::save_losses(const MeasuredLosses& losses) {
  RecordFileWriter(directory_ / kLosses).commit(keyed(losses_json(losses)));
}

std::optional<ResumePoint> ResumeState::point(const Plan& plan, const StatesShape& shape) {
  if (!point_) return std::nullopt;
  shape_ = shape;
  ResumePoint found;
  const std::string reason = reason_against([&] {
    const std::string file = (directory_ / kPoint).string();
    found = parse_point(point_->record(), plan, shape.layers, file);
    check_states(*point_, found, shape, file);
  });
  if (reason.empty()) return found;
  start_afresh(reason);
  return std::nullopt;
}

void ResumeState::load(std::size_t stream, int64_t sequence, float* rows) const {
  JANG_ASSERT(point_.has_value());
  load_states(*point_, shape_, stream, sequence, rows);
}

void ResumeState::save(const Plan& plan, const ResumePoint& point,
                       std::span<const HiddenStates* const> streams, uint64_t sequences) {
  point_.reset();  // its file is about to be replaced
  try {
    write_point(directory_ / kPoint, keyed(point_json(plan, point)), streams, sequences,
                callbacks_.cancel);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNoSpace) throw;
    notice("no space to write down how far this is: an interruption costs the layers from here");
  }
}

}  // namespace jang
