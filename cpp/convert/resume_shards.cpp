#include "convert/resume_shards.h"

#include <utility>
#include <vector>

#include "base/error.h"
#include "io/checksum.h"

namespace jang {

void check_stored(const ShardOutput& output, uint32_t tensor, const PanelSums& sums) {
  for (std::size_t piece = 0; piece < kMaxPieces; ++piece) {
    const std::string& name = output.name(tensor, piece);
    const uint64_t bytes = name.empty() ? 0 : output.bytes(tensor, piece);
    if (sums.bytes[piece] != bytes) {
      throw Error(ErrorCode::kConfigValue, {}, name,
                  "expected " + std::to_string(sums.bytes[piece]) + " bytes, found " +
                      std::to_string(bytes));
    }
    const uint32_t crc = name.empty() ? 0 : output.stored_crc(tensor, piece);
    if (sums.crc[piece] == crc) continue;
    throw Error(ErrorCode::kChecksum, {}, name,
                "expected CRC-32 " + crc32_text(sums.crc[piece]) + ", found " + crc32_text(crc));
  }
}

std::string continue_shards(std::optional<ShardOutput>& shards, const TensorSums& done,
                            const std::filesystem::path& directory, const Plan& plan,
                            const ShardRange& range, std::span<const uint64_t> panels,
                            ThreadPool& pool, const CancelCallback& cancel) {
  try {
    const ShardOutput& output =
        shards.emplace(directory, plan, range, panels, SafetensorsWriter::Start::kContinue);
    const std::vector<std::pair<uint32_t, PanelSums>> tensors(done.begin(), done.end());
    pool.share(static_cast<int64_t>(tensors.size()), 1, [&](int64_t begin, int64_t, int worker) {
      if (worker == 0 && cancel) cancel();
      const auto& [tensor, sums] = tensors[static_cast<std::size_t>(begin)];
      check_stored(output, tensor, sums);
    });
    return {};
  } catch (const Error& error) {
    shards.reset();
    if (error.kind() == ErrorKind::kCancelled) throw;
    return error.what();
  }
}

}  // namespace jang
