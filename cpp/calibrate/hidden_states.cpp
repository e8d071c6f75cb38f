#include "calibrate/hidden_states.h"

#include <array>
#include <cstring>
#include <span>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"

namespace jang {
namespace {

uint64_t bytes_of(int64_t sequences, int64_t tokens, int64_t hidden) {
  const std::array<uint64_t, 4> factors = {static_cast<uint64_t>(sequences),
                                           static_cast<uint64_t>(tokens),
                                           static_cast<uint64_t>(hidden), sizeof(float)};
  const auto bytes = checked_product(factors);
  if (!bytes) throw Error(ErrorCode::kArgument, "calibration: more than 2^64 bytes of tokens");
  return *bytes;
}

}  // namespace

HiddenStates::HiddenStates(int64_t sequences, int64_t tokens, int64_t hidden,
                           uint64_t memory_budget, const std::filesystem::path& scratch)
    : row_bytes_(bytes_of(1, tokens, hidden)) {
  const uint64_t bytes = bytes_of(sequences, tokens, hidden);
  if (bytes <= memory_budget) {
    memory_ = AlignedBuffer<std::byte>(bytes);
    return;
  }
  file_ = NativeFile::create_new(scratch);
  // Without a name nothing is left behind, however this process ends.
  std::error_code ignored;
  std::filesystem::remove(scratch, ignored);
  file_->allocate(bytes);
}

HiddenStates::Needs HiddenStates::needs(int64_t sequences, int64_t tokens, int64_t hidden,
                                        uint64_t memory_budget) noexcept {
  const ByteCount bytes = ByteCount(sequences) * tokens * hidden * sizeof(float);
  if (bytes <= ByteCount(memory_budget)) return {bytes, {}};
  return {{}, bytes};
}

void HiddenStates::load(int64_t sequence, float* rows) const {
  const uint64_t at = static_cast<uint64_t>(sequence) * row_bytes_;
  if (!file_) {
    std::memcpy(rows, memory_.data() + at, row_bytes_);
    return;
  }
  const std::span<std::byte> out(reinterpret_cast<std::byte*>(rows), row_bytes_);
  if (file_->read_at(at, out) != row_bytes_)
    throw Error(ErrorCode::kIo, "calibration: the scratch file of hidden states ends early");
}

void HiddenStates::save(int64_t sequence, const float* rows) {
  const uint64_t at = static_cast<uint64_t>(sequence) * row_bytes_;
  if (!file_) {
    std::memcpy(memory_.data() + at, rows, row_bytes_);
    return;
  }
  file_->write_at(at, {reinterpret_cast<const std::byte*>(rows), row_bytes_});
}

}  // namespace jang
