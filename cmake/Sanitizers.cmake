# Settings of the whole build: JANG_SANITIZE=address,undefined or thread, and optional LTO.
if(JANG_SANITIZE)
  add_compile_options(-fsanitize=${JANG_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=${JANG_SANITIZE})
endif()
if(JANG_LTO)
  include(CheckIPOSupported)
  check_ipo_supported(LANGUAGES CXX)
endif()
# Set either way: without it pybind11 would turn it on for the extension.
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ${JANG_LTO})
