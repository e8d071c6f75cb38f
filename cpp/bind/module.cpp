// The private extension module jang_tools._core: registers every area and turns jang::Error into
// the exceptions of jang_tools.errors, with code, file, tensor, message and hint as attributes.
#include <string>

#include "base/error.h"
#include "bind/bindings.h"

namespace py = pybind11;

namespace jang::bind {

void poll_signals() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

JobCallbacks job_callbacks(const py::object& progress, const py::object& notice) {
  JobCallbacks callbacks;
  callbacks.cancel = poll_signals;
  if (!progress.is_none()) {
    callbacks.progress = [progress](uint64_t done, uint64_t total, std::string_view item) {
      const py::gil_scoped_acquire gil;
      progress(done, total, py::str(item.data(), item.size()));
    };
  }
  if (!notice.is_none()) {
    callbacks.notice = [notice](std::string_view line) {
      const py::gil_scoped_acquire gil;
      notice(py::str(line.data(), line.size()));
    };
  }
  return callbacks;
}

namespace {

const char* exception_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kFormat:
      return "FormatError";
    case ErrorKind::kUnsupported:
      return "UnsupportedError";
    case ErrorKind::kArgument:
      return "ArgumentError";
    case ErrorKind::kIo:
      return "IoError";
    case ErrorKind::kCancelled:
      return "CancelledError";
  }
  return "FormatError";
}

void raise(const Error& error) {
  const py::object type =
      py::module_::import("jang_tools.errors").attr(exception_name(error.kind()));
  const py::object exception = type(std::string(error.what()));
  exception.attr("code") = std::string(code_name(error.code()));
  exception.attr("file") = error.file();
  exception.attr("tensor") = error.tensor();
  exception.attr("message") = error.message();
  exception.attr("hint") = error.hint();
  PyErr_SetObject(type.ptr(), exception.ptr());
}

}  // namespace
}  // namespace jang::bind

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of jang_tools; private: use the package's public names.";
  module.attr("__version__") = JANG_VERSION;
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const jang::Error& error) {
      jang::bind::raise(error);
    }
  });
  jang::bind::bind_io(module);
  jang::bind::bind_quant(module);
  jang::bind::bind_statistics(module);
  jang::bind::bind_plan(module);
  jang::bind::bind_convert(module);
  jang::bind::bind_parts(module);
  jang::bind::bind_model(module);
  jang::bind::bind_eval(module);
  jang::bind::bind_runtime(module);
}
