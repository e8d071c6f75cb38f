# Settings of the whole build: JANG_SANITIZE=address,undefined or thread, and optional LTO.
if(JANG_SANITIZE)
  add_compile_options(-fsanitize=${JANG_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${JANG_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # With the sanitizers' checks between, GCC takes the inactive members of a variant for used ones.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
endif()
if(JANG_LTO)
  include(CheckIPOSupported)
  check_ipo_supported(LANGUAGES CXX)
endif()
# Set either way: without it pybind11 would turn it on for the extension.
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ${JANG_LTO})
