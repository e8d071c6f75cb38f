// ASIMD with dot products: the integer linear kernels. Everything else gains nothing from these
// instructions and is the baseline's.
#define JANG_VEC_BYTES 16
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/generic/activation_position.inl"
#include "kernels/generic/affine_format.inl"
#include "kernels/generic/vec.inl"
//
#include "kernels/arm_neon/dot.inl"
//
#include "kernels/arm_neon/blocks.inl"
#include "kernels/arm_neon/metadata.inl"
//
#include "kernels/arm_neon/decode.inl"
#include "kernels/arm_neon/panels.inl"
//
#include "kernels/arm_neon/sdot_tiles.inl"

template <ActivationOrder kOrder, int kGroup>
using Tiles = SdotTiles<kOrder, kGroup>;

#include "kernels/arm_neon/linear_int8.inl"

constexpr KernelTable kTable = {.level = Level::kNeon,
                                .activation_order = activation_order,
                                .affine_matmul_int8 = affine_matmul_int8};

}  // namespace

const KernelTable* arm_neon_table() noexcept { return &kTable; }

}  // namespace jang::kernels
