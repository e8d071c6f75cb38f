// Chooses the kernel table of this process: which levels were compiled, which of them run here,
// what fills their empty entries, and JANG_ISA. Tables are completed once and never change.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu_features.h"
#include "kernels/kernel_table.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

struct LevelEntry {
  Level level;
  const char* name;
  const KernelTable* (*own_table)() noexcept;  // null: not in this program
  Level lower;                                 // fills empty entries; its own level at the bottom
};

// In the order of the enum.
constexpr LevelEntry kEntries[kLevels] = {
    {Level::kReference, "reference", reference_table, Level::kReference},
    {Level::kBaseline, "baseline", baseline_table, Level::kReference},
#ifdef JANG_HAVE_X86_AVX2
    {Level::kAvx2, "avx2", x86_avx2_table, Level::kBaseline},
#else
    {Level::kAvx2, "avx2", nullptr, Level::kBaseline},
#endif
#ifdef JANG_HAVE_X86_AVX2_VNNI
    {Level::kAvx2Vnni, "avx2_vnni", x86_avx2_vnni_table, Level::kAvx2},
#else
    {Level::kAvx2Vnni, "avx2_vnni", nullptr, Level::kAvx2},
#endif
#ifdef JANG_HAVE_X86_AVX512
    {Level::kAvx512, "avx512", x86_avx512_table, Level::kAvx2},
#else
    {Level::kAvx512, "avx512", nullptr, Level::kAvx2},
#endif
#ifdef JANG_HAVE_X86_AMX
    {Level::kAmx, "amx", x86_amx_table, Level::kAvx512},
#else
    {Level::kAmx, "amx", nullptr, Level::kAvx512},
#endif
#ifdef JANG_HAVE_ARM_NEON
    {Level::kNeon, "neon", arm_neon_table, Level::kBaseline},
#else
    {Level::kNeon, "neon", nullptr, Level::kBaseline},
#endif
#ifdef JANG_HAVE_ARM_I8MM
    {Level::kNeonI8mm, "neon_i8mm", arm_i8mm_table, Level::kNeon},
#else
    {Level::kNeonI8mm, "neon_i8mm", nullptr, Level::kNeon},
#endif
};

// Best first; reference only when asked for.
constexpr Level kPreference[] = {Level::kAmx,      Level::kAvx512, Level::kAvx2Vnni, Level::kAvx2,
                                 Level::kNeonI8mm, Level::kNeon,   Level::kBaseline};

const LevelEntry& entry_of(Level level) noexcept { return kEntries[static_cast<int>(level)]; }

template <typename... Member>
void take_missing(KernelTable& table, const KernelTable& lower, Member... member) noexcept {
  ((table.*member = table.*member != nullptr ? table.*member : lower.*member), ...);
}

void fill_from(KernelTable& table, const KernelTable& lower) noexcept {
  using T = KernelTable;
  take_missing(table, lower, &T::affine_matmul, &T::dense_matmul, &T::activation_order,
               &T::quantize_activations, &T::affine_matmul_int8, &T::row_block, &T::affine_row,
               &T::dense_row, &T::to_float, &T::from_float, &T::rms_norm, &T::add, &T::silu_mul,
               &T::rope, &T::kv_store, &T::kv_load, &T::hadamard, &T::attend, &T::merge_attention,
               &T::softmax, &T::argmax, &T::top_k, &T::add_rms_norm, &T::layer_norm, &T::gelu_mul,
               &T::norm_rope, &T::quantize_rtn, &T::quantize_mse, &T::pack, &T::unpack,
               &T::product_f32, &T::product_f64, &T::round_with_feedback, &T::sum_words,
               &T::multiply_adds, &T::sigmoid_mul, &T::causal_conv, &T::delta_gates,
               &T::delta_chunk, &T::scale, &T::soft_cap, &T::clamp, &T::step_gates, &T::ssd_chunk,
               &T::selective_scan, &T::relu_squared, &T::clamped_swiglu);
  constexpr int kMembers = 47;
  static_assert(sizeof(T) == (1 + kMembers) * sizeof(void*), "name every entry above");
}

// Detection runs once too: a virtual machine may take microseconds for one CPUID.
struct Tables {
  KernelTable table[kLevels] = {};
  const char* refusal[kLevels] = {};  // null: supported

  Tables() noexcept {
    // An entry's lower level comes before it in the enum, so that one pass completes all.
    for (const LevelEntry& entry : kEntries) {
      KernelTable& own = table[static_cast<int>(entry.level)];
      if (entry.own_table != nullptr) own = *entry.own_table();
      own.level = entry.level;
      refusal[static_cast<int>(entry.level)] = entry.own_table != nullptr
                                                   ? why_not(entry.level)
                                                   : "this build does not contain the level";
      if (entry.lower != entry.level) fill_from(own, table[static_cast<int>(entry.lower)]);
    }
  }
};

const Tables& tables() noexcept {
  static const Tables all;
  return all;
}

const char* refusal_of(Level level) noexcept { return tables().refusal[static_cast<int>(level)]; }

const char* unusable(const char* name, const char* why) noexcept {
  // As wide as the longest sentence with a name cut at 32 characters.
  thread_local char text[160];
  std::snprintf(text, sizeof text, "JANG_ISA=%.32s: %s", name, why);
  return text;
}

struct ActiveTable {
  const KernelTable* table = nullptr;
  char message[160] = {};

  ActiveTable() noexcept {
    const char* text = nullptr;
    table = choose_table(std::getenv("JANG_ISA"), &text);
    if (table == nullptr) std::snprintf(message, sizeof message, "%s", text);
  }
};

}  // namespace

const char* level_name(Level level) noexcept { return entry_of(level).name; }

bool level_compiled(Level level) noexcept { return entry_of(level).own_table != nullptr; }

bool level_supported(Level level) noexcept { return refusal_of(level) == nullptr; }

const KernelTable* table_for(Level level) noexcept {
  return level_supported(level) ? &tables().table[static_cast<int>(level)] : nullptr;
}

const KernelTable* choose_table(const char* name, const char** message) noexcept {
  if (name == nullptr || *name == '\0') {
    for (const Level level : kPreference) {
      if (const KernelTable* table = table_for(level)) return table;
    }
  } else {
    for (const LevelEntry& entry : kEntries) {
      if (std::strcmp(name, entry.name) != 0) continue;
      if (const KernelTable* table = table_for(entry.level)) return table;
      *message = unusable(name, refusal_of(entry.level));
      return nullptr;
    }
  }
  *message = unusable(name,
                      "unknown level; one of reference, baseline, avx2, avx2_vnni, avx512, amx, "
                      "neon, neon_i8mm");
  return nullptr;
}

const KernelTable* active_table(const char** message) noexcept {
  static const ActiveTable active;
  if (active.table == nullptr) *message = active.message;
  return active.table;
}

}  // namespace jang::kernels
