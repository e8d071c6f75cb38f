// Reading directories from Python: Checkpoint, TensorInfo, and the two parsers of the trust
// boundary, which tests hold against other implementations.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_count.h"
#include "base/dtype.h"
#include "base/error.h"
#include "bind/bindings.h"
#include "io/checkpoint.h"
#include "io/json.h"
#include "io/safetensors_header.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

/// What Python sees of a tensor; independent of the checkpoint's life.
struct TensorView {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string file;
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

TensorView view_of(const TensorInfo& info, const std::string& file) {
  return {info.name,   std::string(dtype_name(info.dtype)), info.shape, file, info.begin,
          info.bytes()};
}

py::tuple shape_tuple(const std::vector<uint64_t>& shape) { return py::tuple(py::cast(shape)); }

/// bfloat16 and 8-bit floats are unknown to numpy and cross as uint16 and uint8.
py::dtype numpy_type(DType type) {
  switch (type) {
    case DType::kBool:
      return py::dtype("?");
    case DType::kU8:
    case DType::kF8E4M3:
      return py::dtype("u1");
    case DType::kI8:
      return py::dtype("i1");
    case DType::kU16:
    case DType::kBF16:
      return py::dtype("<u2");
    case DType::kI16:
      return py::dtype("<i2");
    case DType::kF16:
      return py::dtype("<f2");
    case DType::kU32:
      return py::dtype("<u4");
    case DType::kI32:
      return py::dtype("<i4");
    case DType::kF32:
      return py::dtype("<f4");
    case DType::kU64:
      return py::dtype("<u8");
    case DType::kI64:
      return py::dtype("<i8");
    case DType::kF64:
      return py::dtype("<f8");
  }
  throw Error(ErrorCode::kUnusableDtype, "no numpy type for this dtype");
}

const CheckpointTensor& require(const Checkpoint& checkpoint, const std::string& name) {
  const CheckpointTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::kMissingTensor, checkpoint.directory().string(), name,
                "expected it in the directory, found no such tensor");
  }
  return *tensor;
}

// Beside a length of zero a tensor may have any others, which numpy multiplies all the same.
void check_array_shape(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  ByteCount bytes = static_cast<uint64_t>(dtype_size(tensor.dtype));
  for (const uint64_t length : tensor.shape) bytes = bytes * std::max<uint64_t>(length, 1);
  if (bytes.value() <= static_cast<uint64_t>(std::numeric_limits<py::ssize_t>::max())) return;
  throw Error(ErrorCode::kShapeOverflow, checkpoint.files()[tensor.file], tensor.name,
              "expected a shape that an array can have, found " +
                  std::string(py::str(py::list(py::cast(tensor.shape)))));
}

py::array read_only_array(const Checkpoint& checkpoint, const std::string& name) {
  const CheckpointTensor& tensor = require(checkpoint, name);
  const std::span<const std::byte> data = checkpoint.data(tensor);
  const py::dtype type = numpy_type(tensor.dtype);
  check_array_shape(checkpoint, tensor);
  const std::vector<py::ssize_t> shape(tensor.shape.begin(), tensor.shape.end());
  const bool aligned =
      reinterpret_cast<uintptr_t>(data.data()) % static_cast<uintptr_t>(dtype_size(tensor.dtype)) ==
      0;
  py::array array;
  if (aligned && !data.empty()) {
    auto owner =
        std::make_unique<std::shared_ptr<const MappedFile>>(checkpoint.share_mapping(tensor));
    const py::capsule base(
        owner.get(), [](void* p) { delete static_cast<std::shared_ptr<const MappedFile>*>(p); });
    owner.release();
    array = py::array(type, shape, data.data(), base);
  } else {
    // numpy copies bytes, so the source may lie anywhere.
    array = py::array(py::dtype("u1"), static_cast<py::ssize_t>(data.size()), data.data())
                .attr("view")(type)
                .attr("reshape")(shape);
  }
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

std::vector<TensorView> parse_header(const py::bytes& data, uint64_t file_bytes,
                                     const std::string& file) {
  const std::string_view text(data);
  std::vector<TensorView> views;
  const py::gil_scoped_release release;
  const SafetensorsHeader header = parse_safetensors_header(
      std::as_bytes(std::span(text.data(), text.size())), file_bytes, file);
  for (const TensorInfo& info : header.tensors) views.push_back(view_of(info, file));
  return views;
}

std::string normalize_json(const py::bytes& text, bool non_finite) {
  const std::string_view view(text);
  JsonLimits limits;
  limits.non_finite = non_finite;
  return dump_json(parse_json(view, "<memory>", ErrorCode::kConfigSyntax, limits));
}

}  // namespace

void bind_io(py::module_& module) {
  py::class_<TensorView>(module, "TensorInfo", "A tensor as its file's header describes it.")
      .def_readonly("name", &TensorView::name)
      .def_readonly("dtype", &TensorView::dtype, "safetensors spelling: \"BF16\"")
      .def_property_readonly(
          "shape", [](const TensorView& t) { return shape_tuple(t.shape); }, "tuple of int")
      .def_readonly("file", &TensorView::file, "bare name of the file that holds it")
      .def_readonly("begin", &TensorView::begin, "byte offset of the payload in the file")
      .def_readonly("bytes", &TensorView::bytes, "bytes of the payload")
      .def("__repr__", [](const TensorView& t) {
        return "TensorInfo(name=" + std::string(py::repr(py::str(t.name))) + ", dtype='" + t.dtype +
               "', shape=" + std::string(py::repr(shape_tuple(t.shape))) + ")";
      });

  py::class_<Checkpoint>(module, "Checkpoint",
                         "A directory of safetensors files as one namespace of tensors, mapped "
                         "read-only and validated.")
      .def(py::init([](const std::filesystem::path& path, bool headers_only) {
             const py::gil_scoped_release release;
             return Checkpoint::open(path, headers_only ? Checkpoint::Access::kHeadersOnly
                                                        : Checkpoint::Access::kMapped);
           }),
           py::arg("path"), py::arg("headers_only") = false,
           "Opens every weight file of a directory and validates all headers and their agreement "
           "with the index. With headers_only payloads may be missing and cannot be read. Raises "
           "FormatError, UnsupportedError or IoError naming file and tensor.")
      .def_property_readonly(
          "tensors",
          [](const Checkpoint& c) {
            std::vector<TensorView> views;
            for (const CheckpointTensor& t : c.tensors()) {
              views.push_back(view_of(t, c.files()[t.file]));
            }
            return views;
          },
          "list of TensorInfo, by name")
      .def_property_readonly("files", &Checkpoint::files, "bare names of the weight files")
      .def_property_readonly("file_bytes", &Checkpoint::file_bytes, "sum of their sizes in bytes")
      .def("array", &read_only_array, py::arg("name"),
           "The tensor as a read-only numpy array of its shape: a view that keeps the mapping "
           "alive, or a copy where the payload is misaligned. BF16 comes as uint16. Raises "
           "FormatError if there is no such tensor or no array can have its shape, ArgumentError "
           "with headers_only.")
      .def(
          "dtype",
          [](const Checkpoint& c, const std::string& name) {
            return std::string(dtype_name(require(c, name).dtype));
          },
          py::arg("name"), "safetensors spelling of the tensor's dtype: \"BF16\"");

  module.def("parse_header", &parse_header, py::arg("data"), py::arg("file_bytes"),
             py::arg("file") = "<memory>",
             "Validates a safetensors header. data: the file's first 8 + N bytes or more; "
             "file_bytes: the size of the whole file. Returns a list of TensorInfo in payload "
             "order; raises FormatError or UnsupportedError.");
  module.def("normalize_json", &normalize_json, py::arg("text"), py::arg("non_finite") = false,
             "Parses strict JSON and returns its canonical text: sorted keys, two spaces, final "
             "newline. non_finite: take Infinity, -Infinity and NaN, as config.json may hold. "
             "Raises FormatError.");
}

}  // namespace jang::bind
