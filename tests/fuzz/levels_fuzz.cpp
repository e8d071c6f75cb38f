// Every instruction-set level of this machine against the reference level: shapes, widths and
// values are drawn from the input, the bounds are those that tests/cpp/kernels states. Memory ends
// at pages nobody may touch. The kernels are those of the release build, so no coverage guides the
// fuzzer; what it brings are cases that nobody wrote down.
#include <cstddef>
#include <cstdint>
#include <span>

#include "levels/draw.h"

namespace {

using namespace jang::kernels;

constexpr fuzz::Check kChecks[] = {
    fuzz::check_affine,     fuzz::check_dense,     fuzz::check_int8,        fuzz::check_activations,
    fuzz::check_quantizers, fuzz::check_packing,   fuzz::check_conversions, fuzz::check_norms,
    fuzz::check_elements,   fuzz::check_gates,     fuzz::check_rope,        fuzz::check_vocabulary,
    fuzz::check_cache,      fuzz::check_attention, fuzz::check_products,    fuzz::check_convolution,
    fuzz::check_scan,
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const KernelTable& reference = *table_for(Level::kReference);
  const fuzz::Check check = kChecks[data[0] % std::size(kChecks)];
  for (int level = 0; level < kLevels; ++level) {
    const KernelTable* table = table_for(static_cast<Level>(level));
    // The reference against itself shows what a check demands that not even it can hold.
    if (table == nullptr) continue;
    fuzz::Draw draw(std::span(data, size).subspan(1));
    check(*table, reference, draw);
  }
  return 0;
}
