// Reads /proc/self/cgroup and walks the group's directory up to the mount point.
//
// Inside a container without a cgroup namespace the path names directories of the host that do not
// exist here; the mount point itself then holds the container's limits, and the walk ends there.
#include "base/cpu_quota.h"

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace jang {
namespace {

namespace fs = std::filesystem;

void take_tighter(std::optional<double>& best, double quota, double period) {
  if (quota <= 0 || period <= 0) return;
  const double cpus = quota / period;
  if (!best || cpus < *best) best = cpus;
}

void read_v2(const fs::path& group, std::optional<double>& best) {
  std::ifstream in(group / "cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max") return;
  std::istringstream number(quota);
  double value = 0;
  if (number >> value) take_tighter(best, value, period);
}

void read_v1(const fs::path& group, std::optional<double>& best) {
  std::ifstream quota_file(group / "cpu.cfs_quota_us");
  std::ifstream period_file(group / "cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (quota_file >> quota && period_file >> period) take_tighter(best, quota, period);
}

template <typename Read>
void walk_up(const fs::path& mount, const std::string& group, std::optional<double>& best,
             Read read) {
  fs::path relative = fs::path(group).relative_path().lexically_normal();
  while (!relative.empty() && relative != "." && *relative.begin() != "..") {
    read(mount / relative, best);
    relative = relative.parent_path();
  }
  read(mount, best);
}

bool lists_cpu(std::string controllers) {
  std::istringstream in(std::move(controllers));
  for (std::string name; std::getline(in, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

std::optional<double> cgroup_cpu_quota(const fs::path& root) {
  std::optional<double> best;
  std::ifstream groups(root / "proc/self/cgroup");
  const fs::path mount = root / "sys/fs/cgroup";
  // A line is "hierarchy:controllers:path"; v2 is hierarchy 0 without controllers.
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) {
      walk_up(mount, group, best, read_v2);
    } else if (lists_cpu(controllers)) {
      walk_up(mount / controllers, group, best, read_v1);
      if (controllers != "cpu") walk_up(mount / "cpu", group, best, read_v1);
    }
  }
  return best;
}

}  // namespace jang
