#include "bind/bindings.h"
namespace jang::bind {
void bind_convert(pybind11::module_&) {}
}  // namespace jang::bind
