#define JANG_VEC_BYTES 16
#include "kernels/level_tables.h"
namespace jang::kernels {
namespace {
#include "kernels/generic/vec.inl"
#if __has_include("kernels/generic/quantize.inl")
#include "kernels/generic/quantize.inl"
#endif
constexpr KernelTable kTable = {
    .level = Level::kBaseline,
#if __has_include("kernels/generic/quantize.inl")
    .quantize_rtn = quantize_rtn,
    .quantize_mse = quantize_mse,
    .pack = pack,
    .unpack = unpack,
#endif
};
}  // namespace
const KernelTable* baseline_table() noexcept { return &kTable; }
}  // namespace jang::kernels
