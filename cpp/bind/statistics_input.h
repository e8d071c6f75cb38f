// Importance of columns as it comes from Python: float32 arrays by module path.
#pragma once

#include <pybind11/numpy.h>

#include <map>
#include <string>

#include "convert/convert.h"

namespace jang::bind {

using ArraysByPath =
    std::map<std::string,
             pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>>;

/// Copies the arrays; ColumnWeights judges them.
StatisticsInput statistics_input(const ArraysByPath& arrays, const std::string& file,
                                 const std::string& sha256);

}  // namespace jang::bind
