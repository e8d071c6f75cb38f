// Storing what lies on a lattice, row by row: each group by its own pair where there is one, by the
// grid search where not. Errors keep the coordinates of the panel.
#include <cmath>
#include <vector>

#include "base/aligned_buffer.h"
#include "quant/active_kernels.h"
#include "quant/kernel_types.h"
#include "quant/lattice.h"
#include "quant/value_checks.h"

namespace jang {
namespace {

// Rows of a panel that one thread stores, with memory for one row.
class RowStore {
 public:
  RowStore(const SourcePanel& source, const AffineFormat& format, const AffinePanel& out)
      : source_(source),
        format_(format),
        out_(out),
        row_groups_(format.row_groups(source.columns)),
        values_(source.columns),
        scales_(row_groups_),
        biases_(row_groups_),
        codes_(source.columns) {}

  uint64_t store(uint64_t row) {
    const auto element = static_cast<uint64_t>(dtype_size(source_.dtype));
    table_.to_float(kernel_bytes(source_.data + row * source_.columns * element),
                    kernel_type(source_.dtype), static_cast<int64_t>(source_.columns),
                    values_.data());
    const uint64_t bad = first_non_finite(values_.span());
    if (bad != source_.columns) throw_non_finite(row, bad, values_[bad]);
    uint64_t lossless = 0;
    for (uint64_t g = 0; g < row_groups_; ++g) lossless += store_group(row, g) ? 1 : 0;
    const auto type = kernel_type(format_.metadata);
    const uint64_t metadata_at =
        row * row_groups_ * static_cast<uint64_t>(dtype_size(format_.metadata));
    const auto groups = static_cast<int64_t>(row_groups_);
    table_.from_float(scales_.data(), type, groups, kernel_bytes(out_.scales + metadata_at));
    table_.from_float(biases_.data(), type, groups, kernel_bytes(out_.biases + metadata_at));
    table_.pack(codes_.data(), static_cast<int64_t>(source_.columns), format_.bits,
                kernel_bytes(out_.codes + row * format_.row_bytes(source_.columns)));
    return lossless;
  }

 private:
  bool store_group(uint64_t row, uint64_t g) {
    const auto width = static_cast<uint64_t>(format_.group_size);
    const std::span<const float> group = values_.span().subspan(g * width, width);
    const std::span<uint8_t> group_codes = codes_.span().subspan(g * width, width);
    if (const auto fit =
            fit_lattice(group, source_.dtype, format_.metadata, format_.bits, group_codes)) {
      scales_[g] = fit->scale;
      biases_[g] = fit->bias;
      return true;
    }
    table_.quantize_mse({.values = group.data(),
                         .weights = nullptr,
                         .weight_groups = 1,
                         .groups = 1,
                         .group = format_.group_size,
                         .bits = format_.bits,
                         .metadata = kernel_type(format_.metadata),
                         .scales = scales_.data() + g,
                         .biases = biases_.data() + g,
                         .codes = group_codes.data()});
    if (!std::isfinite(scales_[g])) throw_range(row, g * width, format_, "scale");
    if (!std::isfinite(biases_[g])) throw_range(row, g * width, format_, "bias");
    return false;
  }

  const kernels::KernelTable& table_ = active_kernels();
  const SourcePanel& source_;
  const AffineFormat& format_;
  const AffinePanel& out_;
  uint64_t row_groups_;
  AlignedBuffer<float> values_, scales_, biases_;
  AlignedBuffer<uint8_t> codes_;
};

}  // namespace

uint64_t store_lattice_panel(const SourcePanel& source, const AffineFormat& format,
                             const AffinePanel& out) {
  RowStore rows(source, format, out);
  uint64_t lossless = 0;
  for (uint64_t row = 0; row < source.rows; ++row) lossless += rows.store(row);
  return lossless;
}

LatticeMatch store_lattice(const SourcePanel& source, const AffineFormat& format,
                           const AffinePanel& out, ThreadPool& pool) {
  std::vector<uint64_t> lossless(static_cast<size_t>(pool.size()));
  pool.share(static_cast<int64_t>(source.rows), 1, [&](int64_t begin, int64_t end, int worker) {
    RowStore rows(source, format, out);
    for (int64_t row = begin; row < end; ++row)
      lossless[static_cast<size_t>(worker)] += rows.store(static_cast<uint64_t>(row));
  });
  LatticeMatch match{format, source.rows * format.row_groups(source.columns), 0};
  for (const uint64_t n : lossless) match.lossless_groups += n;
  return match;
}

}  // namespace jang
