// Control group files of both versions, laid out in a temporary directory.
#include "base/cpu_quota.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace jang {
namespace {

namespace fs = std::filesystem;

class Groups : public testing::Test {
 protected:
  Groups() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::temp_directory_path() /
            ("jang_groups_" + std::to_string(getpid()) + "_" + info->name());
    fs::remove_all(root_);
  }
  ~Groups() override { fs::remove_all(root_); }
  void put(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  fs::path root_;
};

TEST_F(Groups, NoFilesNoQuota) { EXPECT_FALSE(cgroup_cpu_quota(root_)); }

TEST_F(Groups, Version2TakesTheTightestAncestor) {
  put("proc/self/cgroup", "0::/a/b\n");
  put("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_FALSE(cgroup_cpu_quota(root_));
  put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 1.5);
  put("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0.5);
}

TEST_F(Groups, Version2InANamespaceReadsTheMountPoint) {
  put("proc/self/cgroup", "0::/\n");
  put("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 2.0);
}

TEST_F(Groups, Version1) {
  put("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/1\n");
  put("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "-1\n");
  put("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(cgroup_cpu_quota(root_));
  put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n");
  put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 3.0);
}

TEST_F(Groups, MalformedFilesSetNoLimit) {
  put("proc/self/cgroup", "nonsense\n0::/../../etc\n");
  put("sys/fs/cgroup/cpu.max", "soon 0\n");
  EXPECT_FALSE(cgroup_cpu_quota(root_));
  put("sys/fs/cgroup/cpu.max", "100000 0\n");
  EXPECT_FALSE(cgroup_cpu_quota(root_));
}

}  // namespace
}  // namespace jang
