// What each bind_<area>.cpp adds to the module, and the two helpers that they share.
#pragma once

#include <pybind11/pybind11.h>

#include "base/progress.h"

namespace jang::bind {

void bind_io(pybind11::module_& module);
void bind_quant(pybind11::module_& module);
void bind_statistics(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_convert(pybind11::module_& module);
void bind_parts(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_eval(pybind11::module_& module);
void bind_runtime(pybind11::module_& module);

/// For calls that run without the GIL: takes it for a moment and lets a pending Ctrl-C through.
void poll_signals();
/// Progress to a Python callable (done, total, item) or None; cancellation by poll_signals.
/// Notices to a Python callable (line) or None.
JobCallbacks job_callbacks(const pybind11::object& progress,
                           const pybind11::object& notice = pybind11::none());

}  // namespace jang::bind
