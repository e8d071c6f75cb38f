# Cross-compiling for 64-bit Arm Linux on another machine: Debian's g++-aarch64-linux-gnu and qemu-user.
# zlib for that target is unpacked by tools/arm_zlib.sh; programs are static, so that the emulator needs no libraries.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
get_filename_component(jang_arm_sysroot "${CMAKE_CURRENT_LIST_DIR}/../build/arm-sysroot" ABSOLUTE)
set(ZLIB_INCLUDE_DIR "${jang_arm_sysroot}/usr/include" CACHE PATH "")
set(ZLIB_LIBRARY "${jang_arm_sysroot}/usr/lib/aarch64-linux-gnu/libz.a" CACHE FILEPATH "")
