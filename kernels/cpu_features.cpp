// Detection: CPUID and XCR0 on x86 (the operating system must save the registers too), the
// auxiliary vector on Arm. A level asks for everything that its folder's compiler flags allow the
// compiler to use, not only for what the kernels name.
#include "kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace jang::kernels {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) noexcept {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

constexpr bool has(unsigned value, unsigned bits) noexcept { return (value & bits) == bits; }

// Register state that the operating system saves; 0 without OSXSAVE.
unsigned saved_state() noexcept {
  if (!has(cpuid(1, 0).ecx, bit_OSXSAVE)) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// x86-64-v3.
bool runs_avx2() noexcept {
  constexpr unsigned kSseAndAvxState = 0x6;
  return has(saved_state(), kSseAndAvxState) &&
         has(cpuid(1, 0).ecx, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) &&
         has(cpuid(7, 0).ebx, bit_AVX2 | bit_BMI | bit_BMI2) &&
         has(cpuid(0x80000001u, 0).ecx, bit_LZCNT);
}

// AVX-VNNI, in its encoding for registers of 32 bytes.
bool runs_avx2_vnni() noexcept {
  constexpr unsigned kAvxVnni = 1u << 4;  // of leaf 7, subleaf 1, eax
  return runs_avx2() && has(cpuid(7, 1).eax, kAvxVnni);
}

// x86-64-v4 with VNNI, VBMI and VBMI2; cores without VBMI stay on avx2, those that have it beside
// VNNI have VBMI2, too.
bool runs_avx512() noexcept {
  constexpr unsigned kAvx512State = 0xe6;
  const Registers leaf7 = cpuid(7, 0);
  return runs_avx2() && has(saved_state(), kAvx512State) &&
         has(leaf7.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL) &&
         has(leaf7.ecx, bit_AVX512VBMI | bit_AVX512VBMI2 | bit_AVX512VNNI);
}

#elif defined(__aarch64__) && defined(__linux__)

// armv8.2-a, which brings the atomics, CRC and rounding doubling multiplies of 8.1, and dot
// products.
bool runs_neon() noexcept {
  constexpr unsigned long kNeeded =
      HWCAP_ASIMD | HWCAP_CRC32 | HWCAP_ATOMICS | HWCAP_ASIMDRDM | HWCAP_ASIMDDP;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
}

#endif

}  // namespace

bool cpu_runs(Level level) noexcept {
  switch (level) {
    case Level::kReference:
    case Level::kBaseline:
      return true;
#if defined(__x86_64__)
    case Level::kAvx2:
      return runs_avx2();
    case Level::kAvx2Vnni:
      return runs_avx2_vnni();
    case Level::kAvx512:
      return runs_avx512();
#elif defined(__aarch64__) && defined(__linux__)
    case Level::kNeon:
      return runs_neon();
    case Level::kNeonI8mm:
      return runs_neon() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#endif
    default:
      return false;
  }
}

}  // namespace jang::kernels
