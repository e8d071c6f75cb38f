// What this CPU and its operating system can execute.
#pragma once

#include "kernels/kernel_table.h"

namespace jang::kernels {

/// Null if code of `level` runs here, whether or not this program contains any; else why not.
const char* why_not(Level level) noexcept;

/// The part of why_not(kAmx) that is its own: CPUID leaf 7 edx, the state that XCR0 enables, and
/// `ask`, which asks the operating system to let this process use the tiles. Linux grants that once
/// for a process and all its threads; it is not asked where the first two already say no.
const char* why_no_tiles(unsigned leaf7_edx, unsigned xcr0, bool (*ask)() noexcept) noexcept;

}  // namespace jang::kernels
