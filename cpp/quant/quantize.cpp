// Quantizes panels: source rows to floats, the kernel of the method, results to the stored types.
//
// Works through a panel in runs of a bounded number of values, either several whole rows or a part
// of one, so that scratch does not grow with the matrix. Checks what kernels do not: that the
// source is finite and that scales and biases fit their type.
#include "quant/quantize.h"

#include <algorithm>
#include <cmath>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "quant/active_kernels.h"
#include "quant/kernel_types.h"
#include "quant/value_checks.h"

namespace jang {
namespace {

// Values of one run: floats and codes together stay in a core's second-level cache. A multiple of
// every group size.
constexpr uint64_t kRunValues = 16384;
// Values of one piece of work for the pool: milliseconds, so that uneven threads end together.
constexpr uint64_t kPieceValues = 131072;

// `count` values from the element (row, column) on, crossing rows only if column is 0.
struct Run {
  uint64_t row;
  uint64_t column;
  uint64_t count;
};

uint64_t row_of(const Run& run, uint64_t columns, uint64_t index) {
  return run.row + (run.column + index) / columns;
}
uint64_t column_of(const Run& run, uint64_t columns, uint64_t index) {
  return (run.column + index) % columns;
}

// Scratch of one thread and the work on one run.
class RunQuantizer {
 public:
  RunQuantizer(const SourcePanel& source, const AffineFormat& format, Method method,
               const AffinePanel& out, std::span<const float> weights)
      : source_(source),
        format_(format),
        out_(out),
        weights_(weights),
        kernels_(active_kernels()),
        quantize_(method == Method::kRtn ? kernels_.quantize_rtn : kernels_.quantize_mse),
        values_(std::min(kRunValues, source.rows * source.columns)),
        codes_(values_.size()),
        scales_(values_.size() / static_cast<uint64_t>(format.group_size)),
        biases_(scales_.size()) {}

  void operator()(const Run& run) {
    const auto group = static_cast<uint64_t>(format_.group_size);
    const uint64_t first = run.row * source_.columns + run.column;
    const uint64_t groups = run.count / group;
    const auto source_size = static_cast<uint64_t>(dtype_size(source_.dtype));
    kernels_.to_float(kernel_bytes(source_.data + first * source_size), kernel_type(source_.dtype),
                      static_cast<int64_t>(run.count), values_.data());
    const uint64_t bad = first_non_finite({values_.data(), run.count});
    const uint64_t columns = source_.columns;
    if (bad != run.count)
      throw_non_finite(row_of(run, columns, bad), column_of(run, columns, bad), values_[bad]);

    // A run that is part of a row sees only its own columns' weights, one that is whole rows all.
    const uint64_t weight_groups = std::min(run.count, source_.columns) / group;
    quantize_({.values = values_.data(),
               .weights = weights_.empty() ? nullptr : weights_.data() + run.column,
               .weight_groups = static_cast<int64_t>(weight_groups),
               .groups = static_cast<int64_t>(groups),
               .group = format_.group_size,
               .bits = format_.bits,
               .metadata = kernel_type(format_.metadata),
               .scales = scales_.data(),
               .biases = biases_.data(),
               .codes = codes_.data()});
    const uint64_t bad_scale = first_non_finite({scales_.data(), groups});
    if (bad_scale != groups) {
      throw_range(row_of(run, columns, bad_scale * group),
                  column_of(run, columns, bad_scale * group), format_, "scale");
    }
    const uint64_t bad_bias = first_non_finite({biases_.data(), groups});
    if (bad_bias != groups) {
      throw_range(row_of(run, columns, bad_bias * group), column_of(run, columns, bad_bias * group),
                  format_, "bias");
    }

    const auto metadata_size = static_cast<uint64_t>(dtype_size(format_.metadata));
    const uint64_t metadata_at = first / group * metadata_size;
    const auto stored_groups = static_cast<int64_t>(groups);
    kernels_.from_float(scales_.data(), kernel_type(format_.metadata), stored_groups,
                        kernel_bytes(out_.scales + metadata_at));
    kernels_.from_float(biases_.data(), kernel_type(format_.metadata), stored_groups,
                        kernel_bytes(out_.biases + metadata_at));
    kernels_.pack(codes_.data(), static_cast<int64_t>(run.count), format_.bits,
                  kernel_bytes(out_.codes + format_.row_bytes(first)));
  }

 private:
  const SourcePanel& source_;
  const AffineFormat& format_;
  const AffinePanel& out_;
  std::span<const float> weights_;
  const kernels::KernelTable& kernels_;
  void (*quantize_)(const kernels::QuantTask&);
  AlignedBuffer<float> values_;
  AlignedBuffer<uint8_t> codes_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> biases_;
};

void check(const SourcePanel& source, const AffineFormat& format, std::span<const float> weights) {
  JANG_ASSERT(is_bit_width(format.bits) && is_group_size(format.group_size));
  JANG_ASSERT(source.columns % static_cast<uint64_t>(format.group_size) == 0);
  JANG_ASSERT(weights.empty() || weights.size() == source.columns);
  for (const float w : weights) {
    if (!(w > 0.0f && std::isfinite(w))) {
      throw Error(ErrorCode::kArgument, "importance must be finite and above zero in every column");
    }
  }
}

void quantize_rows(RunQuantizer& quantizer, uint64_t columns, uint64_t row_begin,
                   uint64_t row_end) {
  if (columns == 0) return;
  if (columns > kRunValues) {
    for (uint64_t row = row_begin; row < row_end; ++row) {
      for (uint64_t column = 0; column < columns; column += kRunValues) {
        quantizer({row, column, std::min(kRunValues, columns - column)});
      }
    }
    return;
  }
  const uint64_t rows = kRunValues / columns;
  for (uint64_t row = row_begin; row < row_end; row += rows) {
    quantizer({row, 0, std::min(rows, row_end - row) * columns});
  }
}

}  // namespace

void quantize_panel(const SourcePanel& source, const AffineFormat& format, Method method,
                    const AffinePanel& out, std::span<const float> weights) {
  check(source, format, weights);
  RunQuantizer quantizer(source, format, method, out, weights);
  quantize_rows(quantizer, source.columns, 0, source.rows);
}

void quantize_matrix(const SourcePanel& source, const AffineFormat& format, Method method,
                     const AffinePanel& out, ThreadPool& pool, std::span<const float> weights) {
  check(source, format, weights);
  const uint64_t grain =
      std::max<uint64_t>(1, kPieceValues / std::max<uint64_t>(1, source.columns));
  pool.share(static_cast<int64_t>(source.rows), static_cast<int64_t>(grain),
             [&](int64_t begin, int64_t end, int /*worker*/) {
               RunQuantizer quantizer(source, format, method, out, weights);
               quantize_rows(quantizer, source.columns, static_cast<uint64_t>(begin),
                             static_cast<uint64_t>(end));
             });
}

}  // namespace jang
