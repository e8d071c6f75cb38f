// What the machine offers and what was chosen: kernel levels and threads, for `jang env`.
#include <string>

#include "base/thread_pool.h"
#include "bind/bindings.h"
#include "kernels/kernel_table.h"
#include "quant/active_kernels.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

py::dict runtime_info() {
  const kernels::KernelTable& active = active_kernels();
  py::dict levels;
  for (int i = 0; i < kernels::kLevels; ++i) {
    const auto level = static_cast<kernels::Level>(i);
    py::dict entry;
    entry["compiled"] = kernels::level_compiled(level);
    entry["supported"] = kernels::level_supported(level);
    entry["active"] = active.level == level;
    levels[kernels::level_name(level)] = entry;
  }
  const ThreadChoice threads = default_thread_count();
  py::dict info;
  info["version"] = JANG_VERSION;
  info["levels"] = levels;
  info["threads"] = threads.threads;
  info["threads_reason"] = threads.reason;
  return info;
}

}  // namespace

void bind_runtime(py::module_& module) {
  module.def("runtime_info", &runtime_info,
             R"(Kernel levels and threads of this process.

Returns a dict: `version` (str), `levels` ({name: {"compiled", "supported", "active"}}, one active),
`threads` (int, the default number) and `threads_reason` (str, where that number comes from).

Raises ArgumentError if JANG_ISA names a level that is unknown, not in this build or not supported
here, or if JANG_NUM_THREADS is not a usable number.)");
}

}  // namespace jang::bind
