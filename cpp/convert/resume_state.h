// Where an interrupted conversion left off: files beside the unfinished shards, for the
// next conversion with the same key. Anything else that is found there is cleared, with a notice.
//
// Relies on Python for the key (python/jang_tools/resume.py), and for clearing what no conversion
// wrote and, at the end, these files (partial_output.py knows their names); leaves the bytes of the
// shards to their owner.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "base/progress.h"
#include "calibrate/hidden_states.h"
#include "convert/point_file.h"
#include "convert/resume_record.h"
#include "io/record_file.h"

namespace jang {

class ResumeState {
 public:
  /// Opens what `directory` holds; of another key or damaged, it is removed. The callbacks outlive
  /// this object.
  ResumeState(std::filesystem::path directory, std::string key, const JobCallbacks& callbacks);

  /// Losses that were measured for the tensors with a format in `plan`.
  std::optional<MeasuredLosses> losses(const Plan& plan, std::optional<int> group_size);
  void save_losses(const MeasuredLosses& losses);

  /// The last point that was saved for this plan. Without one, no shards are left either.
  std::optional<ResumePoint> point(const Plan& plan, const StatesShape& shape);
  /// Of that point, if it lies before the head.
  void load(std::size_t stream, int64_t sequence, float* rows) const;
  /// What the point names must be on the disk. A full disk costs the point, not the conversion: the
  /// former one stays, with a notice.
  void save(const Plan& plan, const ResumePoint& point,
            std::span<const HiddenStates* const> streams, uint64_t sequences);

  /// Removes point and shards, and says why.
  void start_afresh(const std::string& reason);
  void notice(const std::string& line) const;

 private:
  std::optional<RecordFile> open(const std::filesystem::path& path) const;
  Json keyed(Json record) const;
  void remove_losses();

  std::filesystem::path directory_;
  std::string key_;
  const JobCallbacks& callbacks_;
  std::optional<RecordFile> losses_, point_;
  StatesShape shape_;
};

}  // namespace jang
