// AMX tiles (TDPBUSD, TDPBF16PS): the linear layers of many tokens. Everything else, and few
// tokens, are as in avx512, which this level needs.
#define JANG_VEC_BYTES 64
#include "kernels/generic/intrinsics.h"
#include "kernels/level_tables.h"

namespace jang::kernels {
namespace {

#include "kernels/x86_amx/tile_config.inl"
#include "kernels/x86_amx/tiles.inl"
//
#include "kernels/x86_amx/all.inl"

}  // namespace

const KernelTable* x86_amx_table() noexcept { return &kTable; }

}  // namespace jang::kernels
