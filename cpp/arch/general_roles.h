// Roles in models of unknown architecture: the table of roles, and behind it names that the field
// is used to. Known architectures do without, so that a name they do not have is noticed.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "arch/roles.h"

namespace jang {

/// As role_of; not matched if neither the table nor custom knows the name.
RoleMatch general_role_of(std::string_view path, std::span<const uint64_t> shape);

/// What holds for a model of this type, known or not.
RoleMatch role_in_model(std::string_view path, std::span<const uint64_t> shape,
                        std::string_view model_type);

}  // namespace jang
