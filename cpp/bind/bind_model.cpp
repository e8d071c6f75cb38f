#include "bind/bindings.h"
namespace jang::bind {
void bind_model(pybind11::module_&) {}
}  // namespace jang::bind
