// The kernels of the amx level over tile operations in plain code. Part of the tests only: slow,
// and complete with the entries of avx512 (levels.h).
#define JANG_VEC_BYTES 64
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"
#include "software.h"

namespace jang::kernels {
namespace {

#include "kernels/x86_amx/tile_config.inl"
#include "tile_model.inl"
#include "tiles.inl"
//
#include "kernels/x86_amx/all.inl"

}  // namespace

const KernelTable* amx_software_table() noexcept { return &kTable; }

}  // namespace jang::kernels
