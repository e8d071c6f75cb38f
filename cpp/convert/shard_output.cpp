// Where each piece of each planned tensor lies, and when a shard is complete.
#include "convert/shard_output.h"

#include <map>
#include <utility>

#include "base/error.h"

namespace jang {
std::size_t piece_index(ShardTensor::Piece piece) noexcept {
  switch (piece) {
    case ShardTensor::Piece::kScales:
      return 1;
    case ShardTensor::Piece::kBiases:
      return 2;
    default:
      return 0;
  }
}

ShardOutput::ShardOutput(const std::filesystem::path& directory, const Plan& plan,
                         const ShardRange& range, std::span<const uint64_t> panels,
                         SafetensorsWriter::Start start)
    : shards_(range.end - range.begin), places_(plan.tensors.size()) {
  const auto count = static_cast<uint32_t>(plan.shards.size());
  JANG_ASSERT(range.begin <= range.end && range.end <= count);
  for (uint32_t shard = 0; shard < shards_.size(); ++shard) {
    const std::vector<ShardTensor> tensors = shard_tensors(plan, range.begin + shard);
    std::vector<OutputTensor> outputs;
    outputs.reserve(tensors.size());
    for (const ShardTensor& tensor : tensors) {
      outputs.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    files_.push_back(shard_file_name(range.begin + shard, count));
    shards_[shard].writer = std::make_unique<SafetensorsWriter>(
        directory / (files_.back() + range.suffix), layout_safetensors(std::move(outputs)), start);
    std::map<std::string_view, std::size_t> order;
    const SafetensorsLayout& layout = shards_[shard].writer->layout();
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) order[layout.tensors[i].name] = i;
    for (const ShardTensor& tensor : tensors) {
      Place& place = places_[tensor.planned];
      const std::size_t piece = piece_index(tensor.piece);
      place.shard = shard;
      place.index[piece] = order.at(tensor.name);
      place.names[piece] = tensor.name;
    }
    uint64_t left = 0;
    for (const uint32_t planned : plan.shards[range.begin + shard]) left += panels[planned];
    shards_[shard].panels_left = left;
    shards_[shard].has_panels = left > 0;
  }
}

void ShardOutput::write(uint32_t tensor, std::size_t piece, uint64_t offset,
                        std::span<const std::byte> bytes) {
  const Place& place = places_[tensor];
  JANG_ASSERT(!place.names[piece].empty());
  shards_[place.shard].writer->write(place.index[piece], offset, bytes);
}

uint64_t ShardOutput::bytes(uint32_t tensor, std::size_t piece) const {
  const Place& place = places_[tensor];
  return shards_[place.shard].writer->layout().tensors[place.index[piece]].bytes();
}

uint32_t ShardOutput::stored_crc(uint32_t tensor, std::size_t piece) const {
  const Place& place = places_[tensor];
  return shards_[place.shard].writer->stored_crc(place.index[piece]);
}

void ShardOutput::sync() {
  // Shards without panels, and those that are complete, have been flushed or will be by finish().
  for (Shard& shard : shards_)
    if (shard.panels_left > 0) shard.writer->sync();
}

void ShardOutput::panel_done(uint32_t tensor) {
  Shard& shard = shards_[places_[tensor].shard];
  if (shard.panels_left.fetch_sub(1, std::memory_order_acq_rel) == 1) shard.writer->finish();
}

void ShardOutput::finish() {
  for (Shard& shard : shards_) {
    JANG_ASSERT(shard.panels_left == 0);
    if (!shard.has_panels) shard.writer->finish();
  }
}

}  // namespace jang
