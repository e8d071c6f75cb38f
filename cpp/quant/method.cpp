// Spelling of the quantization methods.
#include "quant/quantize.h"

namespace jang {

std::string_view method_name(Method method) noexcept {
  switch (method) {
    case Method::kRtn:
      return "rtn";
    case Method::kMse:
      return "mse";
  }
  return "";
}

std::optional<Method> parse_method(std::string_view name) noexcept {
  for (const Method method : {Method::kRtn, Method::kMse}) {
    if (method_name(method) == name) return method;
  }
  return std::nullopt;
}

}  // namespace jang
