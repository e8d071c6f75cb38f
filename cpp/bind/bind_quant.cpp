#include "bind/bindings.h"
namespace jang::bind {
void bind_quant(pybind11::module_&) {}
}  // namespace jang::bind
