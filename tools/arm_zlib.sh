#!/bin/bash
# Unpacks Debian's zlib for arm64 into build/arm-sysroot, for `make arm`. Uses a private apt state beside it: no foreign
# architecture is added to this machine and no root is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
sysroot=$PWD/build/arm-sysroot
[ ! -e "$sysroot/usr/lib/aarch64-linux-gnu/libz.a" ] || exit 0

state=$PWD/build/arm-apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$sysroot"
: >"$state/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=
  -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status"
  -o Dir::Cache="$state/cache" -o Acquire::Languages=none)
echo "==> zlib for arm64"
"${apt[@]}" update || true # a third party's list may lack this architecture
(cd "$state" && "${apt[@]}" download zlib1g-dev)
dpkg -x "$state"/zlib1g-dev_*.deb "$sysroot"
test -e "$sysroot/usr/lib/aarch64-linux-gnu/libz.a"
