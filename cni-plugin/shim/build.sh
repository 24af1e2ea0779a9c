#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the CNI shim: build.sh OUTPUT. A freestanding static binary: needs a compiler, no C library. CC picks the
# compiler (clang, which the eBPF objects need anyway, by default); extra arguments go to it, for instance
# --target=aarch64-linux-gnu.
set -eu
output=$1
shift
here=$(dirname "$0")
mkdir -p "$(dirname "$output")"
# A new name, then a rename: the file in place may be running.
"${CC:-clang}" "$@" -std=c11 -Os -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector \
  -fno-asynchronous-unwind-tables -fno-pie -static -nostdlib \
  -Wl,--build-id=none -Wl,-z,noexecstack -s -o "$output.new.$$" "$here/nodemesh-cni.c"
mv "$output.new.$$" "$output"
