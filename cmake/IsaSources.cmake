# Which kernel folders this target has, and the flags of each. One folder, one level, one object library.
function(jang_isa_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  if(NOT sources)
    return()
  endif()
  add_library(jang_kernels_${folder} OBJECT ${sources})
  target_link_libraries(jang_kernels_${folder} PRIVATE jang_flags)
  target_include_directories(jang_kernels_${folder} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_compile_options(jang_kernels_${folder} PRIVATE ${ARGN})
  # Undefined behaviour is looked for in reference and baseline, which compile the same templates; at the higher levels
  # the checks would double compile times of minutes. Memory is checked at all of them.
  if(JANG_SANITIZE MATCHES "undefined" AND ARGN)
    target_compile_options(jang_kernels_${folder} PRIVATE -fno-sanitize=undefined)
  endif()
  # Checks by calls find the same and halve the time that these files take to compile.
  if(JANG_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(jang_kernels_${folder} PRIVATE --param=asan-instrumentation-with-call-threshold=0)
  endif()
  # Fuzz targets read bytes and hardly compute; what kernels do with memory is checked by their tests.
  if(JANG_BUILD_FUZZERS)
    target_compile_options(jang_kernels_${folder} PRIVATE -fno-sanitize=address,undefined)
  endif()
  set_target_properties(jang_kernels_${folder} PROPERTIES JANG_ISA_FLAGS "${ARGN}")
  target_sources(jang_kernels PRIVATE $<TARGET_OBJECTS:jang_kernels_${folder}>)
  string(TOUPPER "JANG_HAVE_${folder}" have)
  target_compile_definitions(jang_kernels PRIVATE ${have})
endfunction()
