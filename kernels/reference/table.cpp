#include "kernels/level_tables.h"
#if __has_include("kernels/reference/quantize.inl")
#include <cmath>
#endif
namespace jang::kernels {
namespace {
#if __has_include("kernels/reference/quantize.inl")
#include "kernels/reference/quantize.inl"
#endif
constexpr KernelTable kTable = {
    .level = Level::kReference,
#if __has_include("kernels/reference/quantize.inl")
    .quantize_rtn = quantize_rtn,
    .quantize_mse = quantize_mse,
    .pack = pack,
    .unpack = unpack,
#endif
};
}  // namespace
const KernelTable* reference_table() noexcept { return &kTable; }
}  // namespace jang::kernels
