#include "bind/bindings.h"
namespace jang::bind {
void bind_plan(pybind11::module_&) {}
}  // namespace jang::bind
