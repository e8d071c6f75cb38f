// The compiler's intrinsics, which the generic files use where vector types cannot say it. Included
// at file scope, before an instruction-set folder opens its unnamed namespace.
#pragma once

#if defined(__x86_64__)
// GCC builds "undefined" registers from themselves, which GCC 12 itself then warns about.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
