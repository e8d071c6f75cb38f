// Quantization of numpy arrays: the formats' own functions, for tests, notebooks and comparisons.
// Arrays of any rank are stacks of rows along the last axis.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bind/bindings.h"
#include "quant/quantize.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

[[noreturn]] void refuse(std::string message) {
  throw Error(ErrorCode::kArgument, std::move(message));
}

std::string dtype_text(const py::array& array) { return py::str(py::object(array.dtype())); }

/// The float type of an array: by its numpy type, or uint16 with dtype="BF16".
DType float_type(const py::array& array, const std::optional<std::string>& name, const char* what) {
  std::optional<DType> carried;
  if (array.dtype().equal(py::dtype::of<float>())) carried = DType::kF32;
  if (array.dtype().equal(py::dtype("<f2"))) carried = DType::kF16;
  if (array.dtype().equal(py::dtype::of<uint16_t>())) carried = DType::kBF16;
  if (!carried || (carried == DType::kBF16 && name != "BF16")) {
    refuse(std::string(what) +
           ": expected float32, float16, or uint16 with dtype=\"BF16\", found " +
           dtype_text(array));
  }
  if (name && name != dtype_name(*carried)) {
    refuse(std::string(what) + ": dtype=\"" + *name + "\" does not fit an array of " +
           dtype_text(array));
  }
  return *carried;
}

/// `array` contiguous, at its own element type.
py::array contiguous(const py::array& array) {
  return py::array::ensure(array, py::array::c_style);
}

std::vector<py::ssize_t> shape_with_last(const py::array& array, uint64_t last) {
  std::vector<py::ssize_t> shape(array.shape(), array.shape() + array.ndim());
  shape.back() = static_cast<py::ssize_t>(last);
  return shape;
}

struct Rows {
  uint64_t rows, columns;
};

Rows rows_of(const py::array& array, const char* what) {
  if (array.ndim() < 1) refuse(std::string(what) + ": expected at least one axis, found a scalar");
  uint64_t rows = 1;
  for (py::ssize_t axis = 0; axis + 1 < array.ndim(); ++axis) {
    rows *= static_cast<uint64_t>(array.shape(axis));
  }
  return {rows, static_cast<uint64_t>(array.shape(array.ndim() - 1))};
}

void check_bits(int bits) {
  if (!is_bit_width(bits)) {
    refuse("bits: expected 2, 3, 4, 5, 6 or 8, found " + std::to_string(bits));
  }
}

AffineFormat checked_format(int bits, int group_size, DType metadata) {
  check_bits(bits);
  if (!is_group_size(group_size)) {
    refuse("group_size: expected 32, 64 or 128, found " + std::to_string(group_size));
  }
  return {.bits = bits, .group_size = group_size, .metadata = metadata};
}

int checked_threads(int threads) {
  if (threads < 0) refuse("threads: expected 0 or more, found " + std::to_string(threads));
  return threads == 0 ? default_thread_count().threads : threads;
}

std::byte* bytes(py::array& array) { return static_cast<std::byte*>(array.mutable_data()); }
const std::byte* bytes(const py::array& array) {
  return static_cast<const std::byte*>(array.data());
}

py::tuple quantize(const py::array& weights, int bits, int group_size, const std::string& method,
                   const std::optional<std::string>& dtype,
                   const std::optional<Dense<float>>& importance, int threads) {
  const DType type = float_type(weights, dtype, "weights");
  const AffineFormat format = checked_format(bits, group_size, type);
  const std::optional<Method> chosen = parse_method(method);
  if (!chosen) refuse("method: expected \"rtn\" or \"mse\", found \"" + method + "\"");
  const auto [rows, columns] = rows_of(weights, "weights");
  if (columns % static_cast<uint64_t>(group_size) != 0) {
    refuse("weights: the last axis, " + std::to_string(columns) +
           ", is no multiple of group_size, " + std::to_string(group_size));
  }
  std::span<const float> importances;
  if (importance) {
    if (importance->ndim() != 1 || static_cast<uint64_t>(importance->size()) != columns) {
      refuse("importance: expected one axis of " + std::to_string(columns) + " values");
    }
    if (chosen != Method::kMse) refuse("importance: only method=\"mse\" uses it");
    importances = {importance->data(), columns};
  }
  ThreadPool pool(checked_threads(threads));
  const py::array source = contiguous(weights);
  py::array codes(py::dtype::of<uint32_t>(),
                  shape_with_last(weights, format.row_bytes(columns) / 4));
  py::array scales(source.dtype(), shape_with_last(weights, format.row_groups(columns)));
  py::array biases(source.dtype(), shape_with_last(weights, format.row_groups(columns)));
  const SourcePanel panel{bytes(source), type, rows, columns};
  const AffinePanel out{bytes(codes), bytes(scales), bytes(biases)};
  {
    const py::gil_scoped_release release;
    quantize_matrix(panel, format, *chosen, out, pool, importances);
  }
  return py::make_tuple(std::move(codes), std::move(scales), std::move(biases));
}

void check_triple(const py::array& codes, const py::array& scales, const py::array& biases,
                  const AffineFormat& format, uint64_t columns) {
  const auto expected = shape_with_last(codes, format.row_groups(columns));
  const auto same = [&](const py::array& array) {
    return array.ndim() == codes.ndim() &&
           std::equal(expected.begin(), expected.end(), array.shape());
  };
  if (!same(scales)) refuse("scales: shape does not fit codes, bits and group_size");
  if (!same(biases)) refuse("biases: shape does not fit codes, bits and group_size");
  if (!scales.dtype().equal(biases.dtype()))
    refuse("scales and biases: expected one dtype, found two");
}

Dense<float> dequantize(const Dense<uint32_t>& codes, const py::array& scales,
                        const py::array& biases, int bits, int group_size,
                        const std::optional<std::string>& dtype, int threads) {
  const AffineFormat format = checked_format(bits, group_size, float_type(scales, dtype, "scales"));
  const auto [rows, words] = rows_of(codes, "codes");
  const uint64_t columns = words * 32 / static_cast<uint64_t>(bits);
  if (words * 32 % static_cast<uint64_t>(bits) != 0 ||
      columns % static_cast<uint64_t>(group_size) != 0) {
    refuse("codes: rows of " + std::to_string(words) + " words hold no whole groups");
  }
  check_triple(codes, scales, biases, format, columns);
  ThreadPool pool(checked_threads(threads));
  py::array source_codes = contiguous(codes);
  py::array source_scales = contiguous(scales);
  py::array source_biases = contiguous(biases);
  Dense<float> out(shape_with_last(codes, columns));
  // The panel type serves both directions; nothing is written through it here.
  const AffinePanel panel{const_cast<std::byte*>(bytes(std::as_const(source_codes))),
                          const_cast<std::byte*>(bytes(std::as_const(source_scales))),
                          const_cast<std::byte*>(bytes(std::as_const(source_biases)))};
  float* const target = out.mutable_data();
  {
    const py::gil_scoped_release release;
    dequantize_matrix(panel, format, rows, columns, target, pool);
  }
  return out;
}

Dense<uint32_t> pack(const Dense<uint8_t>& codes, int bits) {
  check_bits(bits);
  const auto [rows, columns] = rows_of(codes, "codes");
  if (columns % 32 != 0) {
    refuse("codes: the last axis, " + std::to_string(columns) + ", is no multiple of 32");
  }
  const std::span<const uint8_t> all{codes.data(), rows * columns};
  if (!codes_fit(all, bits)) {
    refuse("codes: expected at most " + std::to_string((1 << bits) - 1) + " everywhere");
  }
  Dense<uint32_t> out(shape_with_last(codes, columns / 32 * static_cast<uint64_t>(bits)));
  pack_codes(all, columns, bits, bytes(out));
  return out;
}

Dense<uint8_t> unpack(const Dense<uint32_t>& words, int bits) {
  check_bits(bits);
  const auto [rows, row_words] = rows_of(words, "words");
  if (row_words % static_cast<uint64_t>(bits) != 0) {
    refuse("words: the last axis, " + std::to_string(row_words) + ", is no multiple of bits");
  }
  const uint64_t columns = row_words / static_cast<uint64_t>(bits) * 32;
  Dense<uint8_t> out(shape_with_last(words, columns));
  unpack_codes(bytes(std::as_const(words)), rows, columns, bits,
               {out.mutable_data(), rows * columns});
  return out;
}

}  // namespace

void bind_quant(py::module_& module) {
  using py::arg;
  module.def("quantize", &quantize, arg("weights"), py::kw_only(), arg("bits"), arg("group_size"),
             arg("method") = "rtn", arg("dtype") = py::none(), arg("importance") = py::none(),
             arg("threads") = 0,
             R"(Quantizes rows: weights [..., in] -> (codes, scales, biases).

weights: float32, float16, or uint16 holding bfloat16 with dtype="BF16"; finite.
bits: 2, 3, 4, 5, 6 or 8. group_size: 32, 64 or 128, a divisor of in.
method: "rtn" (MLX's CPU rule, bit for bit) or "mse" (search of scale and bias).
importance: float32 [in], positive weights of the squared errors of each column, for "mse".
threads: 0 for all usable ones; results do not depend on it.

codes: uint32 [..., in*bits/32]. scales, biases: [..., in/group_size], represented like weights.
Raises FormatError for a NaN or infinity and for scales or biases that the type cannot hold, naming
row and column; ArgumentError for the other arguments.)");
  module.def("dequantize", &dequantize, arg("codes"), arg("scales"), arg("biases"), py::kw_only(),
             arg("bits"), arg("group_size"), arg("dtype") = py::none(), arg("threads") = 0,
             R"(scale * code + bias in float32: [..., in] from codes uint32 [..., in*bits/32].

scales, biases: [..., in/group_size] in float32, float16, or uint16 with dtype="BF16".)");
  module.def(
      "pack", &pack, arg("codes"), py::kw_only(), arg("bits"),
      R"(Codes uint8 [..., n] to the bit stream, uint32 [..., n*bits/32]; n a multiple of 32.)");
  module.def("unpack", &unpack, arg("words"), py::kw_only(), arg("bits"),
             R"(The bit stream uint32 [..., n*bits/32] to codes uint8 [..., n].)");
}

}  // namespace jang::bind
