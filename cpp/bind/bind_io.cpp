#include "bind/bindings.h"
namespace jang::bind {
void bind_io(pybind11::module_&) {}
}  // namespace jang::bind
