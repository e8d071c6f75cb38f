// Work is cut into runs of sampled rows that share their weights; sums of a run are taken in one
// order, and those of the runs joined in theirs.
#include "calibrate/candidate_losses.h"

#include <algorithm>
#include <vector>

#include "arch/source_values.h"
#include "base/aligned_buffer.h"
#include "base/error.h"
#include "plan/candidates.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr uint64_t kRows = 256;
constexpr uint64_t kStackRows = 1024;
constexpr uint64_t kExpertRows = 4;  // of each expert, up to kStackRows
constexpr uint64_t kRunRows = 16;    // of one piece of work

/// Sampled rows [first, first + count) of one matrix.
struct Run {
  uint64_t first = 0, count = 0;
  std::span<const float> weights;  // empty: 1
};

/// The sample of a matrix: rows copied one behind the other.
struct Sample {
  std::vector<std::byte> bytes;
  DType dtype = DType::kBF16;
  uint64_t rows = 0, columns = 0;
  std::vector<Run> runs;
};

bool is_allocated(const FinalTensor& tensor) {
  return tensor.packable && tensor.obstacle.empty() && tensor.role.role != Role::kRouter &&
         is_float_weight(tensor.dtype) && tensor.elements() > 0;
}

uint64_t sample_rows(const FinalTensor& tensor) {
  const uint64_t rows = tensor.elements() / tensor.columns();
  const uint64_t wanted =
      tensor.shape.size() == 3
          ? std::clamp(tensor.shape[0] < kStackRows ? kExpertRows * tensor.shape[0] : kStackRows,
                       kRows, kStackRows)
          : kRows;
  return std::min(rows, wanted);
}

Sample take_sample(const Checkpoint& checkpoint, const FinalTensor& tensor,
                   const ColumnWeights& weights) {
  Sample sample;
  sample.dtype = tensor.dtype;
  sample.columns = tensor.columns();
  sample.rows = sample_rows(tensor);
  const uint64_t all = tensor.elements() / sample.columns;
  const uint64_t row_bytes = sample.columns * static_cast<uint64_t>(dtype_size(tensor.dtype));
  sample.bytes.resize(sample.rows * row_bytes);
  const uint64_t block_rows = ColumnWeights::block_rows(tensor);
  uint64_t block = 0;
  for (uint64_t i = 0; i < sample.rows; ++i) {
    // i * all / rows without the product, which need not fit
    const uint64_t row = i * (all / sample.rows) + i * (all % sample.rows) / sample.rows;
    gather_values(checkpoint, tensor, row, 1, 0, sample.columns,
                  sample.bytes.data() + i * row_bytes);
    for_each_run(checkpoint, tensor, row, 1, 0, sample.columns,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   checkpoint.mapping(source).drop(source.begin + offset, bytes);
                 });
    if (sample.runs.empty() || sample.runs.back().count == kRunRows || row / block_rows != block) {
      block = row / block_rows;
      sample.runs.push_back({i, 0, weights.of(tensor, row)});
    }
    ++sample.runs.back().count;
  }
  return sample;
}

struct Scratch {
  AlignedBuffer<std::byte> codes, scales, biases;
};

PanelError run_error(const Sample& sample, const Run& run, const AffineFormat& format,
                     Scratch& scratch) {
  const uint64_t columns = sample.columns;
  const uint64_t size = static_cast<uint64_t>(dtype_size(sample.dtype));
  const uint64_t group_bytes =
      run.count * format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
  scratch.codes.reserve_discarding(run.count * format.row_bytes(columns));
  for (auto* buffer : {&scratch.scales, &scratch.biases}) buffer->reserve_discarding(group_bytes);
  const SourcePanel panel{sample.bytes.data() + run.first * columns * size, sample.dtype, run.count,
                          columns};
  const AffinePanel out{scratch.codes.data(), scratch.scales.data(), scratch.biases.data()};
  quantize_panel(panel, format, Method::kMse, out, run.weights);
  return panel_error(panel, out, format, run.weights);
}

ModuleLoss measure(const Sample& sample, const std::vector<AffineFormat>& formats,
                   std::vector<Scratch>& scratch, ThreadPool& pool) {
  const std::size_t runs = sample.runs.size();
  std::vector<PanelError> errors(formats.size() * runs);
  pool.share(static_cast<int64_t>(errors.size()), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<std::size_t>(i);
      errors[at] = run_error(sample, sample.runs[at % runs], formats[at / runs],
                             scratch[static_cast<std::size_t>(worker)]);
    }
  });
  ModuleLoss loss;
  for (std::size_t c = 0; c < formats.size(); ++c) {
    PanelError sum;
    for (std::size_t r = 0; r < runs; ++r) sum.merge(errors[c * runs + r]);
    loss.errors.push_back({formats[c].bits, formats[c].group_size, sum.relative_square()});
  }
  return loss;
}

}  // namespace

MeasuredLosses candidate_losses(const Checkpoint& checkpoint, const Inventory& inventory,
                                const ColumnWeights& weights, const LossOptions& options,
                                ThreadPool& pool, const JobCallbacks& callbacks) {
  std::vector<const FinalTensor*> tensors;
  uint64_t total = 0, done = 0;
  const auto sample_bytes = [](const FinalTensor& tensor) {
    return sample_rows(tensor) * tensor.columns() * static_cast<uint64_t>(dtype_size(tensor.dtype));
  };
  for (const FinalTensor& tensor : inventory.tensors) {
    if (!is_allocated(tensor)) continue;
    tensors.push_back(&tensor);
    total += sample_bytes(tensor);
  }
  std::vector<Scratch> scratch(static_cast<std::size_t>(pool.size()));
  MeasuredLosses losses;
  for (const FinalTensor* tensor : tensors) {
    if (callbacks.cancel) callbacks.cancel();
    std::vector<AffineFormat> formats;
    for (const auto& [bits, group] : candidate_formats(tensor->columns(), options.group_size))
      formats.push_back({bits, group, options.dtype.value_or(tensor->dtype)});
    if (!formats.empty()) {
      try {
        const Sample sample = take_sample(checkpoint, *tensor, weights);
        losses[tensor->path] = measure(sample, formats, scratch, pool);
      } catch (const Error& error) {
        if (!error.tensor().empty() || !error.file().empty()) throw;
        const SourceValue at = locate_value(*tensor, 0, 0);
        const CheckpointTensor& source = checkpoint.tensors()[at.tensor];
        throw Error(error.code(), checkpoint.files()[source.file], tensor->source,
                    "in a sample of its rows: " + error.message(), error.hint());
      }
    }
    done += sample_bytes(*tensor);
    if (callbacks.progress) callbacks.progress(done, total, tensor->name);
  }
  return losses;
}

}  // namespace jang
