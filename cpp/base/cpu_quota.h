// The CPU time that a container grants, read from the control groups of Linux.
#pragma once

#include <filesystem>
#include <optional>

namespace jang {

/// CPUs' worth of time per period (1.5 = one and a half): the tightest limit of this process's
/// group and its ancestors, cgroup v2 or v1. Nothing where no limit is set or the system has no
/// groups. `root` is the file system's root, another directory in tests.
std::optional<double> cgroup_cpu_quota(const std::filesystem::path& root = "/");

}  // namespace jang
