// A conversion between two layers as a file: what is done as its record, hidden states as its
// payload. What a record says beside the point, and under which name it lies, is its user's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/progress.h"
#include "calibrate/hidden_states.h"
#include "convert/resume_record.h"
#include "io/record_file.h"

namespace jang {

/// What the hidden states of a conversion are: f32 [streams][sequences][row_bytes / 4].
struct StatesShape {
  uint64_t layers = 0;  // of the model; 0: no calibration, no states
  uint64_t streams = 0, sequences = 0;
  uint64_t row_bytes = 0;  // of a sequence
};

/// Writes the states of so many sequences and the record, in place of a former file. Throws
/// kNoSpace and kIo; the former file is there then.
void write_point(const std::filesystem::path& path, const Json& record,
                 std::span<const HiddenStates* const> streams, uint64_t sequences,
                 const CancelCallback& cancel);

/// Error{kConfigValue} naming `name` unless `file` holds states of this shape, or none for a point
/// behind the head.
void check_states(const RecordFile& file, const ResumePoint& point, const StatesShape& shape,
                  const std::string& name);

/// Of a file that was checked and holds states.
void load_states(const RecordFile& file, const StatesShape& shape, std::size_t stream,
                 int64_t sequence, float* rows);

}  // namespace jang
