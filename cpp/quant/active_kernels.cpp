// Turns the choice of the kernel table, which may fail on JANG_ISA, into a reference or an Error.
#include "quant/active_kernels.h"

#include "base/error.h"

namespace jang {

const kernels::KernelTable& active_kernels() {
  const char* message = nullptr;
  const kernels::KernelTable* table = kernels::active_table(&message);
  if (table == nullptr) {
    throw Error(ErrorCode::kArgument, message != nullptr ? message : "no kernel level is usable");
  }
  return *table;
}

}  // namespace jang
