#!/usr/bin/env bash
# Installs what is needed and not there yet, from the machine's own apt sources.
#
#   scripts/setup.sh [--dry-run] [build|test|demo|bench]      (test)
#
#   build   a C toolchain for the C parts of the crypto, SQLite and zstd crates
#   test    QEMU, NBD tools, what builds a guest's disk, and an S3 service (moto, from PyPI into .cache/tools)
#   demo    as test
#   bench   as test, mmdebstrap for a disk with a real Debian on it, and the backup programs the vault is compared with
#
# Debian 12 and 13, Ubuntu 24.04. Asks nothing. Uses sudo only when not root. Rust itself comes from https://rustup.rs.
set -euo pipefail

dry=
[ "${1:-}" = --dry-run ] && dry=1 && shift
profile=${1:-test}

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

build=(build-essential ca-certificates git)
# nbdsh needs python3-libnbd; guest.sh needs mtools, syslinux, cpio, e2fsprogs and something to unpack kernel modules.
run=(qemu-system-x86 qemu-utils nbdkit libnbd-bin python3-libnbd fio e2fsprogs mtools syslinux cpio xz-utils zstd
  iproute2 nftables procps curl util-linux python3-venv)
case $profile in
  build) wanted=("${build[@]}") ;;
  test | demo) wanted=("${build[@]}" "${run[@]}") ;;
  bench) wanted=("${build[@]}" "${run[@]}" mmdebstrap restic borgbackup) ;;
  *) fail "unknown profile '$profile': build, test, demo or bench" ;;
esac
command -v apt-get >/dev/null || fail "this is no Debian or Ubuntu; install yourself: ${wanted[*]}"

root=()
if [ "$(id -u)" != 0 ] && [ -z "$dry" ]; then
  command -v sudo >/dev/null || fail "run this as root, or install sudo"
  root=(sudo)
fi

export DEBIAN_FRONTEND=noninteractive
apt() {
  local simulate=()
  [ -n "$dry" ] && simulate=(-s)
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "${simulate[@]}" "$@"
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }

missing=()
for p in "${wanted[@]}"; do is_installed "$p" || missing+=("$p"); done

# Would installing these with those options take something away or fail?
fits() { apt-get -s -qq --no-install-recommends --no-remove install "$@" >/dev/null 2>&1; }

# A qemu-utils from backports pins QEMU's other packages to backports too. Adds that suite of the Debian mirror the machine
# already uses, unless it is there.
backports() {
  local suite mirror key=/usr/share/keyrings/debian-archive-keyring.gpg list
  suite=$1-backports
  if apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx -- "$suite"; then return; fi
  mirror=$(apt-get indextargets --format '$(CODENAME)|$(REPO_URI)' 'Created-By: Packages' \
    | awk -F'|' -v c="$1" '$1 == c { print $2; exit }')
  [ -n "$mirror" ] || return 1
  list=$(eval "$(apt-config shell parts Dir::Etc::sourceparts/d)"; echo "${parts%/}/lifeboat-backports.sources")
  say "adding $suite of $mirror in $list"
  [ -z "$dry" ] || return 0
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$mirror" "$suite"
    if [ -f "$key" ]; then printf 'Signed-By: %s\n' "$key"; fi
  } | "${root[@]}" tee "$list" >/dev/null
  apt update && return
  "${root[@]}" rm "$list"
  return 1
}

install_missing() {
  if fits "${missing[@]}"; then
    apt --no-install-recommends --no-remove install "${missing[@]}"
    return
  fi
  case $(version qemu-utils) in
    *~bpo*)
      say "qemu-utils $(version qemu-utils) is from backports, and QEMU's packages must be of one version"
      local codename suite rest=() p
      codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}") suite=$codename-backports
      if backports "$codename"; then
        if [ -n "$dry" ]; then
          say "would install from $suite: qemu-system-x86 qemu-utils, and from elsewhere what else is missing"
          return
        fi
        if fits -t "$suite" qemu-system-x86 qemu-utils; then
          apt --no-install-recommends --no-remove -t "$suite" install qemu-system-x86 qemu-utils
          # Everything else from where it usually comes.
          for p in "${missing[@]}"; do case $p in qemu-*) ;; *) rest+=("$p") ;; esac; done
          [ ${#rest[@]} = 0 ] || apt --no-install-recommends --no-remove install "${rest[@]}"
          return
        fi
      fi
      # Backports are gone (an archived release): go back to the release's own version, both together.
      local own
      own=$(apt-cache madison qemu-utils | awk -F'|' '{ gsub(/ /, "", $2) } $2 !~ /~bpo/ { print $2; exit }')
      say "no backports here: going back to qemu-utils $own"
      apt --no-install-recommends --allow-downgrades install "${missing[@]}" "qemu-utils=$own"
      ;;
    *) fail "apt cannot install ${missing[*]} without removing something; see: apt-get install ${missing[*]}" ;;
  esac
}

if [ ${#missing[@]} = 0 ]; then
  say "nothing is missing for '$profile'"
else
  say "installing for '$profile': ${missing[*]}"
  [ -n "$dry" ] || apt update
  install_missing
fi

# Guests are made of packages that are fetched, not installed; that too needs lists.
if [ "$profile" != build ] && ! apt-cache show busybox-static >/dev/null 2>&1; then
  say "fetching package lists"
  apt update
fi

# The S3 service the vault is tested against. Versions are pinned: a new one is a change like any other.
moto() {
  local to=$1 wanted=(moto[s3]==5.2.5 flask==3.1.3 flask-cors==6.0.5)
  [ "$(cat "$to/lifeboat" 2>/dev/null)" != "${wanted[*]}" ] || return 0
  say "installing ${wanted[*]} in $to"
  [ -z "$dry" ] || return 0
  rm -rf "$to"
  # The system's own Python: python3-venv is for it.
  /usr/bin/python3 -m venv "$to"
  "$to/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}"
  echo "${wanted[*]}" > "$to/lifeboat"
}
case $profile in
  test | bench) moto "$(cd "$(dirname "$0")/.." && pwd)/.cache/tools/moto" ;;
esac

command -v cargo >/dev/null || say "cargo is missing: install Rust 1.95 or later from https://rustup.rs"
command -v cargo-nextest >/dev/null || say "cargo-nextest is not here: tests run with plain cargo test"
say "done"
