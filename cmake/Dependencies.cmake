# Everything from outside: threads, zlib, nlohmann/json, and for the extension Python and pybind11.
find_package(Threads REQUIRED)

find_package(ZLIB QUIET)
if(NOT ZLIB_FOUND)
  message(FATAL_ERROR "zlib's headers are missing. On Debian or Ubuntu: apt install zlib1g-dev")
endif()

find_package(Python COMPONENTS Interpreter QUIET)
find_package(nlohmann_json 3.11 QUIET)
if(NOT nlohmann_json_FOUND)
  # The header package of the same name from PyPI, as in the build requirements of pyproject.toml.
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import os, nlohmann_json as n; print(os.path.join(os.path.dirname(n.__file__), 'include'))"
    OUTPUT_VARIABLE JANG_JSON_INCLUDE OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT EXISTS "${JANG_JSON_INCLUDE}/nlohmann/json.hpp")
    message(FATAL_ERROR "nlohmann/json is missing. pip install nlohmann_json, or apt install nlohmann-json3-dev")
  endif()
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json SYSTEM INTERFACE "${JANG_JSON_INCLUDE}")
endif()

if(JANG_BUILD_PYTHON)
  find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module)
  if(NOT Python_Development.Module_FOUND)
    message(FATAL_ERROR "Python's headers are missing. On Debian or Ubuntu: apt install python3-dev")
  endif()
  find_package(pybind11 3.0 CONFIG REQUIRED)
endif()
