#include "convert/conversion_needs.h"

#include <algorithm>
#include <string>
#include <utility>

#include "arch/directory.h"
#include "base/thread_pool.h"
#include "convert/panel_writer.h"

namespace jang {
namespace {

// Interpreter, tokenizer, text and what the allocator keeps of freed buffers.
constexpr uint64_t kProgram = uint64_t{48} << 20;
// Names, places and sums of a tensor in headers, plan, shards and documents.
constexpr uint64_t kTensor = uint64_t{6} << 10;
// The caller's arrays, the core's copy of them, and weights made of that.
constexpr uint64_t kStatisticsCopies = 3;

ByteCount total(const std::vector<MemoryShare>& shares) {
  ByteCount sum;
  for (const MemoryShare& share : shares) sum += share.bytes;
  return sum;
}

}  // namespace

ByteCount ConversionNeeds::memory_bytes() const noexcept { return total(memory); }

ConversionNeeds conversion_needs(const std::filesystem::path& source, const Plan& plan,
                                 const NeedsOptions& options) {
  ConversionNeeds needs;
  needs.threads = options.threads != 0 ? options.threads : default_thread_count().threads;
  if (options.calibration) {
    const ModelSpec spec = directory_spec(open_model_directory(source));
    CalibrationNeeds found =
        solve_needs(spec, plan, *options.calibration, options.casts, needs.threads);
    needs.scratch = found.scratch;
    if (plan.allocation) {
      CalibrationNeeds measured =
          measure_needs(spec, plan, *options.calibration, options.casts, needs.threads);
      needs.scratch = std::max(needs.scratch, measured.scratch);
      if (total(measured.memory) > total(found.memory)) found = std::move(measured);
    }
    needs.memory = std::move(found.memory);
  }
  needs.memory.push_back({"panels of " + std::to_string(needs.threads) + " threads",
                          WriteScratch::bytes() * needs.threads});
  if (options.statistics_bytes != 0)
    needs.memory.push_back({"statistics", ByteCount(options.statistics_bytes) * kStatisticsCopies});
  needs.memory.push_back(
      {"program and headers", ByteCount(plan.tensors.size()) * kTensor + kProgram});
  std::erase_if(needs.memory, [](const MemoryShare& share) { return share.bytes == ByteCount{}; });
  std::stable_sort(needs.memory.begin(), needs.memory.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return needs;
}

}  // namespace jang
