// One entry for every quantization method that works a row at a time without calibration.
//
// Results depend on the values alone: not on the kernel level, the panel size or the number of
// threads (sums per group in a fixed order, no fused multiply-add in the choice of codes).
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "base/thread_pool.h"
#include "quant/affine_format.h"

namespace jang {

enum class Method {
  kRtn,  // round to nearest: MLX's CPU rule, bit for bit
  kMse,  // per-group search of scale and bias (kernels/reference/grid_search.inl)
};
std::string_view method_name(Method method) noexcept;
std::optional<Method> parse_method(std::string_view name) noexcept;  // "rtn", "mse"

/// Quantizes a panel on the calling thread. `weights`: importance of each column (columns values, >
/// 0) or empty for none; only kMse looks at it. A NaN or infinity in the source, or a scale or bias
/// that the metadata type cannot hold, throws Error{kNonFinite | kRange} with the row and column in
/// the message (the caller adds file and tensor). `columns` is a multiple of the group size
/// (precondition).
void quantize_panel(const SourcePanel& source, const AffineFormat& format, Method method,
                    const AffinePanel& out, std::span<const float> weights = {});

/// The same for a whole matrix, rows split over the pool.
void quantize_matrix(const SourcePanel& source, const AffineFormat& format, Method method,
                     const AffinePanel& out, ThreadPool& pool, std::span<const float> weights = {});

/// w = s*q + b in float32 (the format's definition). `out` holds rows * columns floats.
void dequantize_matrix(const AffinePanel& in, const AffineFormat& format, uint64_t rows,
                       uint64_t columns, float* out, ThreadPool& pool);

/// Whether every code is at most 2^bits - 1.
bool codes_fit(std::span<const uint8_t> codes, int bits) noexcept;

/// Packs codes (one a byte, row-major) and the reverse. Codes above max_code() are a programmer
/// error.
void pack_codes(std::span<const uint8_t> codes, uint64_t columns, int bits, std::byte* out);
void unpack_codes(const std::byte* packed, uint64_t rows, uint64_t columns, int bits,
                  std::span<uint8_t> out);

/// Source values as float32, exactly.
void load_floats(const SourcePanel& source, float* out);

/// Sums for `verify --against` and reports, in double, over the rows of a panel; r_k is the weight
/// of column k, 1 without weights.
struct PanelError {
  double error_squares = 0;   // sum r_k (w_hat - w)^2
  double source_squares = 0;  // sum r_k w^2
  double max_abs = 0;         // max |w_hat - w|
  void merge(const PanelError& other) noexcept;
  double relative_square() const noexcept;  // error_squares / source_squares, likewise
  double relative_rms()
      const noexcept;  // sqrt(error_squares / source_squares), 0 for a zero source
};
PanelError panel_error(const SourcePanel& source, const AffinePanel& quantized,
                       const AffineFormat& format, std::span<const float> weights = {});

}  // namespace jang
