// The weight files of a conversion: laid out in full from the plan, headers first, then filled in
// any order by any thread. Each file is flushed to disk by whoever writes its last panel, so that
// flushing one shard overlaps with quantizing the next.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors_writer.h"
#include "plan/plan.h"

namespace jang {

/// The payloads of a planned tensor: codes, scales, biases; a plain tensor has the first only.
inline constexpr std::size_t kMaxPieces = 3;
std::size_t piece_index(ShardTensor::Piece piece) noexcept;

/// Which shards of a plan, and what their names end with until they are complete.
struct ShardRange {
  uint32_t begin = 0, end = 0;
  std::string suffix;

  static ShardRange all(const Plan& plan) {
    return {0, static_cast<uint32_t>(plan.shards.size()), {}};
  }
};

class ShardOutput {
 public:
  /// Creates the shards of `range` in `directory`, or takes up those that an interrupted conversion
  /// left there. `panels[i]` is how many panels tensor i of the plan has.
  ShardOutput(const std::filesystem::path& directory, const Plan& plan, const ShardRange& range,
              std::span<const uint64_t> panels,
              SafetensorsWriter::Start start = SafetensorsWriter::Start::kCreate);

  /// Bare names, in order, as they are when complete.
  const std::vector<std::string>& files() const noexcept { return files_; }
  /// Output name of a piece; empty if the tensor has no such piece, or lies in none of the shards.
  const std::string& name(uint32_t tensor, std::size_t piece) const noexcept {
    return places_[tensor].names[piece];
  }

  /// Writes bytes at `offset` inside a piece. Safe from several threads for disjoint ranges.
  void write(uint32_t tensor, std::size_t piece, uint64_t offset, std::span<const std::byte> bytes);
  /// Of a piece that has a name and a shard that is not complete: its size, and the CRC-32 of what
  /// lies in the file.
  uint64_t bytes(uint32_t tensor, std::size_t piece) const;
  uint32_t stored_crc(uint32_t tensor, std::size_t piece) const;
  /// Flushes everything that was written. Not while others write.
  void sync();
  /// To be called once for every panel after its writes.
  void panel_done(uint32_t tensor);
  /// Flushes the shards that have no panels at all; afterwards every shard is on disk.
  void finish();

 private:
  struct Shard {
    std::unique_ptr<SafetensorsWriter> writer;
    std::atomic<uint64_t> panels_left = 0;
    bool has_panels = false;
  };
  struct Place {
    uint32_t shard = 0;                           // counted from the first of the range
    std::array<std::size_t, kMaxPieces> index{};  // in the writer's layout
    std::array<std::string, kMaxPieces> names;
  };
  std::vector<Shard> shards_;
  std::vector<Place> places_;  // by planned tensor
  std::vector<std::string> files_;
};

}  // namespace jang
