#!/usr/bin/env bash
# Builds the disk the full-sync benchmark copies: 4 GiB, of which about 0.8 GB are a real Debian, 1 GiB is random, the rest empty.
#
#   scripts/debian-disk.sh OUT.img
#
# ext4 with the Debian in the first 2 GiB, random bytes in the third, nothing in the fourth. The random bytes are the same each
# time. Needs root (or user namespaces) and mmdebstrap: scripts/setup.sh bench. Keeps its result in .cache; OUT is a copy.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${LIFEBOAT_CACHE:-$root/.cache}/bench
PATH=$PATH:/usr/sbin:/sbin
out=${1:?name the image to write}

fail() { echo "debian-disk.sh: $*" >&2; exit 1; }

codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || codename=bookworm
mirror=${MIRROR:-$(apt-get indextargets --format '$(CODENAME)|$(REPO_URI)' 'Created-By: Packages' \
  | awk -F'|' -v c="$codename" '$1 == c { print $2; exit }')}
[ -n "$mirror" ] || fail "apt has no Debian mirror of $codename configured; name one in MIRROR"
packages=build-essential,python3,git,vim,linux-image-cloud-amd64,perl-modules,openssh-server,curl,nginx-light,gdb

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
disk=$cache/debian-$codename-$(echo "$packages $(sha256sum < "$0")" | sha256sum | cut -c1-12).img
if [ ! -f "$disk" ]; then
  for tool in mmdebstrap mkfs.ext4 openssl; do
    command -v "$tool" >/dev/null || fail "$tool is missing; run scripts/setup.sh bench"
  done
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "debian-disk.sh: unpacking a $codename from $mirror" >&2
  mmdebstrap --quiet --variant=important --include="$packages" --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='force-unsafe-io' "$codename" "$work/root" "$mirror" >&2
  echo "debian-disk.sh: $(du -sm "$work/root" | cut -f1) MB of files" >&2
  rm -f "$cache"/debian-*.img
  truncate -s 4G "$disk.tmp"
  mkfs.ext4 -q -F -L root -E lazy_itable_init=0,lazy_journal_init=0 -d "$work/root" "$disk.tmp" 2G
  head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -K 4c696665626f61742062656e63680000 -iv 00000000000000000000000000000000 \
    | dd of="$disk.tmp" bs=1M seek=2048 conv=notrunc iflag=fullblock status=none
  mv "$disk.tmp" "$disk"
fi
cp --sparse=always "$disk" "$out"
