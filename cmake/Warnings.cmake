# Flags of every translation unit of ours. No fast-math, no contraction: results are part of the format.
add_library(jang_flags INTERFACE)
target_compile_features(jang_flags INTERFACE cxx_std_20)
target_include_directories(jang_flags INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/cpp")
target_compile_options(jang_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                            -ffp-contract=off -fno-math-errno)
# GCC 12 sees overlapping copies in "text" + std::to_string(n) where there are none (its bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(jang_flags INTERFACE -Wno-restrict)
endif()
if(JANG_DEVELOPMENT)
  target_compile_options(jang_flags INTERFACE -Werror)
  target_compile_definitions(jang_flags INTERFACE JANG_DEVELOPMENT)
endif()
# The baseline of the wheels, never this machine's own best; dispatch adds the rest at run time. Interface options come
# after a target's own and the last -march wins, so a kernel folder with flags of its own does without this one.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(baseline_flags -march=x86-64-v2)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$" AND NOT APPLE)
  set(baseline_flags -march=armv8-a)
endif()
target_compile_options(jang_flags INTERFACE "$<$<STREQUAL:$<TARGET_PROPERTY:JANG_ISA_FLAGS>,>:${baseline_flags}>")
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_CXX_EXTENSIONS OFF)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
