// The tokens of a calibration as they come from Python.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <string>

#include "convert/convert.h"

namespace jang::bind {

using Tokens = pybind11::array_t<int32_t, pybind11::array::c_style | pybind11::array::forcecast>;

/// Copies the ids, [sequences, tokens]. Throws Error{kArgument} for none and for other shapes, and
/// for `streams` other than 1 and 2.
CalibrationInput calibration_input(const std::optional<Tokens>& ids, const std::string& text,
                                   const std::string& sha256, int streams);

}  // namespace jang::bind
