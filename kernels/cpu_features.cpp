// Detection: CPUID and XCR0 on x86 (the operating system must save the registers too, and for tiles
// give its permission), the auxiliary vector on Arm. A level asks for everything that its folder's
// compiler flags allow the compiler to use, not only for what the kernels name.
#include "kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
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

// Tile data is state that Linux saves only for processes that asked for it.
bool tiles_permitted() noexcept {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
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

constexpr char kNotHere[] = "this CPU or operating system does not support the level";

[[maybe_unused]] const char* unless(bool runs) noexcept { return runs ? nullptr : kNotHere; }

}  // namespace

const char* why_no_tiles(unsigned leaf7_edx, unsigned xcr0, bool (*ask)() noexcept) noexcept {
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  constexpr unsigned kConfigAndData = 0x3u << 17;
  if ((leaf7_edx & (kBf16 | kTiles | kInt8)) != (kBf16 | kTiles | kInt8)) return kNotHere;
  if ((xcr0 & kConfigAndData) != kConfigAndData)
    return "this operating system does not support the level: it does not save tile registers";
  if (!ask())
    return "this operating system does not support the level here: it refused the tile registers";
  return nullptr;
}

const char* why_not(Level level) noexcept {
  switch (level) {
    case Level::kReference:
    case Level::kBaseline:
      return nullptr;
#if defined(__x86_64__)
    case Level::kAvx2:
      return unless(runs_avx2());
    case Level::kAvx2Vnni:
      return unless(runs_avx2_vnni());
    case Level::kAvx512:
      return unless(runs_avx512());
    case Level::kAmx:
      return runs_avx512() ? why_no_tiles(cpuid(7, 0).edx, saved_state(), tiles_permitted)
                           : kNotHere;
#elif defined(__aarch64__) && defined(__linux__)
    case Level::kNeon:
      return unless(runs_neon());
    case Level::kNeonI8mm:
      return unless(runs_neon() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0);
#endif
    default:
      return kNotHere;
  }
}

}  // namespace jang::kernels
