#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The innermost step of a machine's start: runs as the first process in its new namespaces, builds the root file
# system, makes it the root, and becomes pause. Arguments: ROOT NAME FOLDER-OF-KUBERNETES.
set -eu
root=$1
name=$2
kubernetes=$3

hostname "$name"
mount --bind "$root" "$root"
cd "$root"
mkdir -p usr dev proc sys run tmp opt/kubernetes .outside
for folder in bin sbin lib lib64; do
  [ -L "$folder" ] || [ ! -e "/$folder" ] || ln -s "usr/$folder" "$folder"
done

mount --bind /usr usr
mount -o remount,bind,ro usr
mount --bind "$kubernetes" opt/kubernetes
mount -o remount,bind,ro opt/kubernetes
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p run/lock run/netns

# No disk and no device of the machine.
mount -t tmpfs -o mode=0755 dev dev
device() {
  mknod -m 0666 "dev/$1" c "$2" "$3"
}
device null 1 3
device zero 1 5
device full 1 7
device random 1 8
device urandom 1 9
device kmsg 1 11
device tty 5 0
device fuse 10 229
mkdir -p dev/net dev/pts dev/shm dev/mqueue
device net/tun 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

mount -t proc proc proc
# The kubelet writes these, and they are the whole machine's, not a namespace's: it finds what it wants in files.
setting() {
  mkdir -p .sysctl
  echo "$2" >".sysctl/${1##*/}"
  [ ! -e "proc/sys/$1" ] || mount --bind ".sysctl/${1##*/}" "proc/sys/$1"
}
setting vm/overcommit_memory 1
setting vm/panic_on_oom 0
setting kernel/panic 10
setting kernel/panic_on_oops 1
setting kernel/keys/root_maxkeys 1000000
setting kernel/keys/root_maxbytes 25000000

# This network namespace's devices, this cgroup namespace's groups, and pins of its own.
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
! mountpoint -q /sys/fs/cgroup || ! grep -q ' /sys/fs/cgroup tmpfs ' /proc/self/mounts ||
  mount -t tmpfs -o mode=0755 cgroup sys/fs/cgroup
while read -r _ target type options _; do
  case $type in
    cgroup2)
      mkdir -p "$root$target"
      mount -t cgroup2 cgroup2 "$root$target"
      ;;
    cgroup)
      mkdir -p "$root$target"
      # Of its options only the controllers (or the name) may be given.
      hierarchy=$(printf '%s' "$options" | tr , '\n' | grep -vxE 'rw|ro|nosuid|nodev|noexec|relatime|noatime|xattr|clone_children|release_agent=.*' | paste -sd,)
      mount -t cgroup -o "$hierarchy" cgroup "$root$target"
      ;;
  esac
done <<EOF
$(cat /proc/self/mounts)
EOF

pivot_root . .outside
cd /
# Else this machine would hold the outer one's mounts, and with them other clusters' namespaces.
umount -l /.outside
rmdir /.outside
mount --make-rshared /
exec /opt/pause
