#include "convert/point_file.h"

#include <array>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace jang {
namespace {

uint64_t states_bytes(const StatesShape& shape) {
  const std::array factors = {shape.streams, shape.sequences, shape.row_bytes};
  const auto bytes = checked_product(factors);
  if (!bytes) throw Error(ErrorCode::kArgument, "calibration: more than 2^64 bytes of tokens");
  return *bytes;
}

}  // namespace

void write_point(const std::filesystem::path& path, const Json& record,
                 std::span<const HiddenStates* const> streams, uint64_t sequences,
                 const CancelCallback& cancel) {
  RecordFileWriter file(path);
  for (const HiddenStates* states : streams) {
    AlignedBuffer<float> rows(static_cast<std::size_t>(states->row_bytes() / sizeof(float)));
    for (uint64_t s = 0; s < sequences; ++s) {
      if (cancel) cancel();
      states->load(static_cast<int64_t>(s), rows.data());
      file.append(std::as_bytes(rows.span()));
    }
  }
  file.commit(record);
}

void check_states(const RecordFile& file, const ResumePoint& point, const StatesShape& shape,
                  const std::string& name) {
  const uint64_t expected = point.position.layers <= shape.layers ? states_bytes(shape) : 0;
  if (file.payload_bytes() == expected) return;
  throw Error(ErrorCode::kConfigValue, name, {},
              "expected " + std::to_string(expected) + " bytes of hidden states, found " +
                  std::to_string(file.payload_bytes()));
}

void load_states(const RecordFile& file, const StatesShape& shape, std::size_t stream,
                 int64_t sequence, float* rows) {
  JANG_ASSERT(stream < shape.streams);
  const uint64_t place = stream * shape.sequences + static_cast<uint64_t>(sequence);
  file.read(place * shape.row_bytes,
            {reinterpret_cast<std::byte*>(rows), static_cast<std::size_t>(shape.row_bytes)});
}

}  // namespace jang
