# The one place of the version is pyproject.toml; a build through pip and a plain CMake build agree.
file(STRINGS "${PROJECT_SOURCE_DIR}/pyproject.toml" version_line REGEX "^version = " LIMIT_COUNT 1)
string(REGEX REPLACE "^version = \"([^\"]+)\".*" "\\1" JANG_VERSION "${version_line}")
set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             "${PROJECT_SOURCE_DIR}/pyproject.toml")
