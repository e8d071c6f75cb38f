// The way back: codes to weights, and how far they are from the source.
#include <algorithm>
#include <cmath>

#include "base/aligned_buffer.h"
#include "quant/active_kernels.h"
#include "quant/kernel_types.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr uint64_t kRunValues = 16384;  // a multiple of every group size; bounds the scratch

// Decodes runs of groups of a quantized matrix, seen as one long sequence: rows share no byte.
class RunDecoder {
 public:
  RunDecoder(const AffinePanel& panel, const AffineFormat& format, uint64_t values)
      : panel_(panel),
        format_(format),
        kernels_(active_kernels()),
        codes_(std::min(kRunValues, values)),
        scales_(codes_.size() / static_cast<uint64_t>(format.group_size)),
        biases_(scales_.size()) {}

  /// `count` weights from the first-th on; both multiples of the group size, count <= kRunValues.
  void operator()(uint64_t first, uint64_t count, float* out) {
    const auto group = static_cast<uint64_t>(format_.group_size);
    const uint64_t groups = count / group;
    const uint64_t at = first / group * static_cast<uint64_t>(dtype_size(format_.metadata));
    const auto type = kernel_type(format_.metadata);
    kernels_.to_float(kernel_bytes(panel_.scales + at), type, static_cast<int64_t>(groups),
                      scales_.data());
    kernels_.to_float(kernel_bytes(panel_.biases + at), type, static_cast<int64_t>(groups),
                      biases_.data());
    kernels_.unpack(kernel_bytes(panel_.codes + format_.row_bytes(first)),
                    static_cast<int64_t>(count), format_.bits, codes_.data());
    for (uint64_t g = 0; g < groups; ++g) {
      const float s = scales_[g];
      const float b = biases_[g];
      const uint8_t* codes = codes_.data() + g * group;
      for (uint64_t i = 0; i < group; ++i) {
        const float product = s * static_cast<float>(codes[i]);
        out[g * group + i] = product + b;
      }
    }
  }

 private:
  const AffinePanel& panel_;
  const AffineFormat& format_;
  const kernels::KernelTable& kernels_;
  AlignedBuffer<uint8_t> codes_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> biases_;
};

// A NaN must not vanish in a maximum.
double larger(double a, double b) noexcept { return a < b || std::isnan(b) ? b : a; }

}  // namespace

void dequantize_matrix(const AffinePanel& in, const AffineFormat& format, uint64_t rows,
                       uint64_t columns, float* out, ThreadPool& pool) {
  JANG_ASSERT(columns % static_cast<uint64_t>(format.group_size) == 0);
  const uint64_t values = rows * columns;
  pool.share(static_cast<int64_t>((values + kRunValues - 1) / kRunValues), 1,
             [&](int64_t begin, int64_t end, int /*worker*/) {
               RunDecoder decode(in, format, values);
               for (int64_t run = begin; run < end; ++run) {
                 const uint64_t first = static_cast<uint64_t>(run) * kRunValues;
                 decode(first, std::min(kRunValues, values - first), out + first);
               }
             });
}

void load_floats(const SourcePanel& source, float* out) {
  active_kernels().to_float(kernel_bytes(source.data), kernel_type(source.dtype),
                            static_cast<int64_t>(source.rows * source.columns), out);
}

void PanelError::merge(const PanelError& other) noexcept {
  error_squares += other.error_squares;
  source_squares += other.source_squares;
  max_abs = larger(max_abs, other.max_abs);
}

double PanelError::relative_square() const noexcept {
  return source_squares > 0 ? error_squares / source_squares : 0;
}

double PanelError::relative_rms() const noexcept { return std::sqrt(relative_square()); }

PanelError panel_error(const SourcePanel& source, const AffinePanel& quantized,
                       const AffineFormat& format, std::span<const float> weights) {
  const uint64_t values = source.rows * source.columns;
  RunDecoder decode(quantized, format, values);
  AlignedBuffer<float> expected(std::min(kRunValues, values));
  AlignedBuffer<float> found(expected.size());
  const auto& kernels = active_kernels();
  const auto size = static_cast<uint64_t>(dtype_size(source.dtype));
  PanelError total;
  for (uint64_t first = 0; first < values; first += kRunValues) {
    const uint64_t count = std::min(kRunValues, values - first);
    kernels.to_float(kernel_bytes(source.data + first * size), kernel_type(source.dtype),
                     static_cast<int64_t>(count), expected.data());
    decode(first, count, found.data());
    for (uint64_t i = 0; i < count; ++i) {
      const double w = static_cast<double>(expected[i]);
      const double error = static_cast<double>(found[i]) - w;
      const double weight =
          weights.empty() ? 1.0 : static_cast<double>(weights[(first + i) % source.columns]);
      total.error_squares += weight * error * error;
      total.source_squares += weight * w * w;
      total.max_abs = larger(total.max_abs, std::fabs(error));
    }
  }
  return total;
}

}  // namespace jang
