#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares this machine and this clone: checks, Debian packages, node_modules, compiled parts.
# Does nothing, quickly, when nothing is to be done. Starts no service. `setup.sh lint` stops before the
# checks and packages that only running the mesh needs; `setup.sh cluster` adds what a cluster needs.
set -eu
cd "$(dirname "$0")/.."
asked=${1:-full}
mode=$asked
lists=scripts/packages.txt
if [ "$mode" = cluster ]; then
  mode=full
  lists="$lists scripts/packages-cluster.txt"
fi

fail() {
  printf 'setup: %s\n' "$1" >&2
  exit 1
}

# The program that is named last keeps its output in a file, of which the end is shown when it fails.
log=build/setup.log
quietly() {
  what=$1
  shift
  printf 'setup: %s\n' "$what" >&2
  if ! "$@" >"$log" 2>&1 </dev/null; then
    if grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|Temporary failure|Could not resolve|Could not connect|Unable to connect|ENOTCACHED|network' "$log"; then
      fail "$what failed: no answer from the network; connect this machine (or set its proxy) and run it again (details: $log)"
    fi
    tail -n 15 "$log" >&2
    fail "$what failed; the lines above say why (all of them: $log)"
  fi
}

# --- what this machine must be -----------------------------------------------------------------------
case ${NODE_MAJOR:=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)} in
  [0-9] | 1[0-9]) fail 'Node.js 20 or newer is missing; install it (nodejs.org or your distribution), npm included' ;;
esac
command -v npm >/dev/null || fail 'npm is missing; install it beside Node.js'

if [ "$mode" = full ]; then
  [ "$(id -u)" = 0 ] || fail 'not root: namespaces and eBPF need it; run this with sudo'
  [ "$(uname -s)" = Linux ] || fail "this is $(uname -s): eBPF needs Linux; use a Linux machine or VM"
  kernel=$(uname -r)
  major=${kernel%%.*}
  rest=${kernel#*.}
  minor=${rest%%[!0-9]*}
  if [ "$major" -lt 5 ] || { [ "$major" = 5 ] && [ "$minor" -lt 15 ]; }; then
    fail "kernel $kernel is too old: 5.15 or newer is needed; boot a newer kernel"
  fi
  [ -r /sys/kernel/btf/vmlinux ] ||
    fail 'the kernel has no BTF (/sys/kernel/btf/vmlinux); boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every Debian kernel since 11 is)'
  awk '$3 == "cgroup2" { found = 1 } END { exit !found }' /proc/self/mounts ||
    fail 'cgroup2 is not mounted; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified'
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    fail 'this is neither Debian nor Ubuntu (no apt-get), whose packages this project uses; use such a machine or VM'
fi

mkdir -p build

# --- Go, which only some tests need: it builds their foreign programs once --------------------------------
# 1.21 and later fetch the version that test/tools/go.mod asks for by themselves.
if [ "$mode" = full ] && [ ! -x build/test-tools/kustomize ]; then
  go=$(PATH="$PATH:/usr/local/go/bin:/usr/lib/go/bin" go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  [ "${go:-0}" -ge 21 ] ||
    printf 'setup: %s; tests that run programs in Go fail without it: install Go 1.26 from https://go.dev/dl (the package of Debian 12 is too old)\n' \
      "$([ -n "$go" ] && echo "Go 1.$go is too old" || echo 'Go is missing')" >&2
fi

# --- one set-up at a time on this machine ---------------------------------------------------------------
if [ -z "${SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
  lock=build/.setup.lock
  [ "$(id -u)" != 0 ] || [ ! -d /run/lock ] || lock=/run/lock/nodemesh-setup.lock
  SETUP_LOCKED=1 NODE_MAJOR=$NODE_MAJOR exec flock "$lock" sh scripts/setup.sh "$asked"
fi

# --- Debian packages ------------------------------------------------------------------------------------
missing_packages() {
  # shellcheck disable=SC2086 # one word per list, one per package
  wanted=$(sed 's/#.*//' $lists)
  present=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' $wanted 2>/dev/null | sed -n 's/^ii *//p')
  for package in $wanted; do
    printf '%s\n' "$present" | grep -qx "$package" || printf ' %s' "$package"
  done
}

# While packages are installed, policy-rc.d tells their scripts to start no service. One that was there
# before is put back, whatever happens.
policy=/usr/sbin/policy-rc.d
restore_policy() {
  [ -e "$policy.nodemesh" ] || return 0
  if grep -q 'none-before-nodemesh' "$policy.nodemesh"; then
    rm -f "$policy" "$policy.nodemesh"
  else
    mv -f "$policy.nodemesh" "$policy"
  fi
}
install_packages() {
  trap restore_policy EXIT
  trap 'exit 130' HUP INT TERM
  if [ -e "$policy" ]; then
    cp -p "$policy" "$policy.nodemesh"
  else
    printf 'none-before-nodemesh\n' >"$policy.nodemesh"
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy.new"
  chmod 755 "$policy.new"
  mv -f "$policy.new" "$policy"
  export DEBIAN_FRONTEND=noninteractive
  quietly 'asking Debian for its package lists' apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o APT::Update::Error-Mode=any update
  # shellcheck disable=SC2086
  quietly "installing$1" apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 install -y --no-install-recommends $1
  restore_policy
  trap - EXIT HUP INT TERM
}

if [ "$mode" = full ]; then
  restore_policy # after an earlier run that was killed
  missing=$(missing_packages)
  [ -z "$missing" ] || install_packages "$missing"
fi

# --- node_modules: exactly the lockfile's -------------------------------------------------------------------
want=$(cat package.json package-lock.json .npmrc | cksum)
stamp=node_modules/.nodemesh-lockfile
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  # With no network npm would try for many minutes: one quick question first, then only what it has kept.
  offline=
  npm ping --fetch-retries=0 --fetch-timeout=20000 >/dev/null 2>&1 </dev/null ||
    npm view yaml version --prefer-online --fetch-retries=0 --fetch-timeout=20000 >/dev/null 2>&1 </dev/null ||
    offline=--offline
  # shellcheck disable=SC2086
  quietly 'installing node_modules' npm ci --loglevel=error --no-fund --no-audit $offline
  printf '%s\n' "$want" >"$stamp"
fi
bin=$(echo node_modules/node-linux-*/bin)
[ -x "$bin/node" ] || fail "npm brought no Node.js for $(uname -m); x64 and arm64 are supported"

# --- compiled parts; make knows itself what is up to date ---------------------------------------------------
if [ "$mode" = full ]; then
  compile() {
    [ ! -e "$1/Makefile" ] || make -q -C "$1" OUT="$PWD/$2" >/dev/null 2>&1 ||
      quietly "compiling $1" make -C "$1" OUT="$PWD/$2"
  }
  compile bpf build/bpf
  compile cni-plugin/shim build/cni
  compile keeper build
  compile agent/parent build
  compile agent/connect-test build
  compile agent/probe build
  compile bench/open-loop build
fi
