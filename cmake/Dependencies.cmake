# Everything from outside: threads, zlib, nlohmann/json, and for the extension Python and pybind11.
# Messages about what is missing start with a space: CMake prints such a line as it is, on one line.

function(jang_missing what package)
  message(FATAL_ERROR " ${what} missing: apt install ${package} (Debian, Ubuntu), or your system's equivalent")
endfunction()

find_package(Threads REQUIRED)

find_package(ZLIB QUIET)
if(NOT ZLIB_FOUND)
  jang_missing("zlib's headers (zlib.h) are" zlib1g-dev)
endif()

if(JANG_BUILD_PYTHON)
  find_package(Python 3.10 QUIET COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)
  if(NOT Python_Interpreter_FOUND)
    jang_missing("Python 3.10 or newer is" python3)
  endif()
  if(NOT Python_Development.Module_FOUND)
    jang_missing("The headers of Python ${Python_VERSION} (Python.h) are" python3-dev)
  endif()
  if(NOT pybind11_DIR)
    execute_process(COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
                    OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  find_package(pybind11 3.0 CONFIG QUIET)
  if(NOT pybind11_FOUND)
    message(FATAL_ERROR " pybind11 3.0 or newer is missing: pip install pybind11")
  endif()
else()
  find_package(Python QUIET COMPONENTS Interpreter)
endif()

# The package of PyPI (a build requirement of ours) holds the header alone; Debian's has a CMake config.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import os, nlohmann_json as n; print(os.path.join(os.path.dirname(n.__file__), 'include'))"
  OUTPUT_VARIABLE json_include OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(json_include AND EXISTS "${json_include}/nlohmann/json.hpp")
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json SYSTEM INTERFACE "${json_include}")
else()
  find_package(nlohmann_json 3.11 QUIET)
  if(NOT nlohmann_json_FOUND)
    message(FATAL_ERROR " nlohmann/json 3.11 or newer is missing: pip install nlohmann_json, or apt install nlohmann-json3-dev")
  endif()
endif()
