#include "bind/bindings.h"
namespace jang::bind {
void bind_runtime(pybind11::module_&) {}
}  // namespace jang::bind
