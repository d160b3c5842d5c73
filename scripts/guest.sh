#!/usr/bin/env bash
# Builds a small bootable disk: Debian's own cloud kernel, a busybox initramfs and the `ledger` service of lifeboat-sim.
#
#   scripts/guest.sh OUT.img [options]
#
#   --size MIB            size of the disk (256)
#   --witness HOST:PORT   where the service tells its numbers (10.0.2.2:9000; `none` for nobody)
#   --http PORT           port the service answers on (80)
#   --hz N                lines a second (10)
#   --address CIDR        the guest's address (10.0.2.15/24, gateway 10.0.2.2: QEMU's user network)
#   --data OUT MIB        one more disk, empty; give it to QEMU as the second virtio disk
#   --oracle HOST:PORT    run the oracle's writes on that second disk, its ledger sent to `lifeboat-sim oracle collect` there
#   --oracle-args ARGS    more arguments for `oracle write`, commas for spaces, e.g. --seconds=60,--seed=7
#   --append ARGS         more kernel arguments
#
# The disk boots by itself (MBR, syslinux on FAT, then partition 2: ext4 labelled `ledger`), because after a failover
# nothing else exists. Needs apt's configured mirror once; what it fetched stays in .cache/guest, by package version.
# The environment may name LIFEBOAT_SIM (a static lifeboat-sim) and LIFEBOAT_CACHE. No root and no mounts.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
here=$root/scripts/guest
cache=${LIFEBOAT_CACHE:-$root/.cache}/guest
PATH=$PATH:/usr/sbin:/sbin

fail() { echo "guest.sh: $*" >&2; exit 1; }
say() { echo "guest.sh: $*" >&2; }

out= size=256 witness=10.0.2.2:9000 http=80 hz=10 address=10.0.2.15/24 data= data_mib= oracle= oracle_args= append=
while [ $# -gt 0 ]; do
  case $1 in
    --size) size=$2; shift 2 ;;
    --witness) witness=$2; shift 2 ;;
    --http) http=$2; shift 2 ;;
    --hz) hz=$2; shift 2 ;;
    --address) address=$2; shift 2 ;;
    --data) data=$2 data_mib=$3; shift 3 ;;
    --oracle) oracle=$2; shift 2 ;;
    --oracle-args) oracle_args=$2; shift 2 ;;
    --append) append=$2; shift 2 ;;
    -*) fail "unknown option $1" ;;
    *) [ -z "$out" ] || fail "more than one output: $1"; out=$1; shift ;;
  esac
done
[ -n "$out" ] || fail "name the image to write: scripts/guest.sh OUT.img"
[ "$size" -ge 96 ] || fail "a disk of $size MiB is too small: 96 is the least"

for tool in mformat mcopy mkfs.ext4 syslinux cpio apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || fail "$tool is missing; run scripts/setup.sh test"
done
mbr=
for f in /usr/lib/syslinux/mbr/mbr.bin /usr/lib/SYSLINUX/mbr.bin /usr/lib/EXTLINUX/mbr.bin /usr/share/syslinux/mbr.bin; do
  [ -f "$f" ] && mbr=$f && break
done
[ -n "$mbr" ] || fail "syslinux's mbr.bin is missing; run scripts/setup.sh test"

mkdir -p "$cache"
# One builder at a time: tests call this in parallel.
exec 9>"$cache/lock"
flock 9

# ---- what the guest is made of -------------------------------------------------------------------------------------

sim=${LIFEBOAT_SIM:-}
if [ -z "$sim" ]; then
  sim=$root/target/guest/x86_64-unknown-linux-gnu/release/lifeboat-sim
  (cd "$root" && RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --release -p lifeboat-sim --no-default-features \
    --target x86_64-unknown-linux-gnu --target-dir target/guest 9>&-) || fail "building lifeboat-sim failed"
fi
[ -x "$sim" ] || fail "$sim is not there"

# Debian calls its virtual-machine kernel linux-image-cloud-amd64, Ubuntu linux-image-virtual. Both only name the real one.
kernel_package() {
  local meta dep
  for meta in linux-image-cloud-amd64 linux-image-virtual; do
    dep=$(apt-cache depends --important "$meta" 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
    [ -n "$dep" ] && echo "$dep" && return
  done
  return 1
}

# Fetches packages (and, once, fresh lists if the mirror has moved on) into a directory of their own and unpacks them.
fetch() {
  local into=$1; shift
  local tmp; tmp=$(mktemp -d "$cache/fetch.XXXXXX")
  local opts=()
  [ "$(id -u)" = 0 ] && opts=(-o APT::Sandbox::User=root)
  say "fetching $*"
  (cd "$tmp" && apt-get -qq "${opts[@]}" download "$@") || {
    [ "$(id -u)" = 0 ] || fail "cannot download $*; run apt-get update as root and try again"
    apt-get -qq update
    (cd "$tmp" && apt-get -qq "${opts[@]}" download "$@") || fail "cannot download $*"
  }
  mkdir "$tmp/root"
  local deb
  for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
  rm -rf "$into"; mv "$tmp/root" "$into"; rm -rf "$tmp"
}

kernel=$(kernel_package) || fail "apt knows no linux-image-cloud-amd64 or linux-image-virtual; run apt-get update"
wanted=("$kernel" busybox-static)
modules_package=${kernel/linux-image-/linux-modules-}
apt-cache show "$modules_package" >/dev/null 2>&1 && wanted+=("$modules_package")
versions=$(apt-cache policy "${wanted[@]}" | awk '/Candidate:/ { printf "-%s", $2 }' | tr ':+~' '...')
unpacked=$cache/$kernel$versions
[ -d "$unpacked" ] || { rm -rf "$cache"/linux-image-*; fetch "$unpacked" "${wanted[@]}"; }

key=$( { echo "$unpacked $size"; cat "$0" "$here"/*; cat "$sim"; } | sha256sum | cut -c1-16)
base=$cache/base-$size-$key.img

# ---- the initramfs ---------------------------------------------------------------------------------------------------

# Prints the module files for the named modules, each after those it needs. What is not there is built in.
module_order() {
  local mods=$1 seen=' '; shift
  visit() {
    local name=${1//-/_} file deps dep
    case $seen in *" $name "*) return ;; esac
    seen="$seen$name "
    file=$(find "$mods" -name "${name//_/[-_]}.ko*" | head -n1)
    [ -n "$file" ] || return 0
    deps=$(unpack_module "$file" | tr '\0' '\n' | sed -n 's/^depends=//p' | tr ',' ' ')
    for dep in $deps; do visit "$dep"; done
    echo "$file"
  }
  for m in "$@"; do visit "$m"; done
}

unpack_module() {
  case $1 in
    *.ko) cat "$1" ;;
    *.ko.xz) xz -dc "$1" ;;
    *.ko.zst) zstd -qdc "$1" ;;
    *.ko.gz) gzip -dc "$1" ;;
  esac
}

build_initramfs() {
  local into=$1 list=$2 dir n file name mods
  dir=$(mktemp -d "$cache/initramfs.XXXXXX")
  mkdir -p "$dir"/{bin,dev,proc,sys,mnt,modules,etc}
  cp "$unpacked/bin/busybox" "$dir/bin/" 2>/dev/null || cp "$unpacked/usr/bin/busybox" "$dir/bin/"
  install -m 755 "$sim" "$dir/bin/lifeboat-sim"
  if command -v strip >/dev/null; then strip "$dir/bin/lifeboat-sim"; fi
  install -m 755 "$here/init" "$dir/init"
  mods=$(find "$unpacked" -type d -path '*lib/modules/*' -name kernel | head -n1)
  n=0
  # Loaded in this order: what every launch uses first, then what a disk on another bus needs.
  for file in $(module_order "$mods" $list); do
    n=$((n + 1)) name=$(basename "$file")
    unpack_module "$file" > "$dir/modules/$(printf %02d $n)-${name%%.ko*}.ko"
  done
  find "$dir" -exec touch -hd @0 {} +
  (cd "$dir" && find . -mindepth 1 | sort | cpio --quiet -o -H newc --reproducible -R 0:0) > "$into"
  rm -rf "$dir"
}

# ---- the disk ----------------------------------------------------------------------------------------------------------

le32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)); }
# One MBR entry: bootable flag, type, first sector, sectors. CHS fields say "use LBA".
entry() { printf '\\x%s\\xfe\\xff\\xff\\x%s\\xfe\\xff\\xff%s%s' "$1" "$2" "$(le32 "$3")" "$(le32 "$4")"; }

boot_mib=40

build_base() {
  local tmp=$base.tmp work vmlinuz
  work=$(mktemp -d "$cache/work.XXXXXX")
  say "building $(basename "$base")"
  build_initramfs "$work/initrd" "virtio_pci virtio_blk virtio_net crc32c_intel virtio_scsi sd_mod ata_piix ahci e1000"
  vmlinuz=$(find "$unpacked/boot" -name 'vmlinuz-*' | head -n1)
  [ -n "$vmlinuz" ] || fail "$kernel holds no kernel"

  rm -f "$tmp"; truncate -s "${size}M" "$tmp"
  dd if="$mbr" of="$tmp" bs=440 count=1 conv=notrunc status=none
  printf "\x4c\x42\x4f\x54\x00\x00$(entry 80 0e 2048 $((boot_mib * 2048)))$(entry 00 83 $(((boot_mib + 1) * 2048)) $(((size - boot_mib - 1) * 2048)))" \
    | dd of="$tmp" bs=1 seek=440 conv=notrunc status=none
  printf '\x55\xaa' | dd of="$tmp" bs=1 seek=510 conv=notrunc status=none

  export MTOOLS_SKIP_CHECK=1
  mformat -i "$tmp@@1M" -T $((boot_mib * 2048)) -h 64 -s 32 -H 2048 -N 4c424f54 -v BOOT ::
  mcopy -i "$tmp@@1M" "$vmlinuz" ::vmlinuz
  mcopy -i "$tmp@@1M" "$work/initrd" ::initrd
  syslinux --install --offset $((1 << 20)) "$tmp"

  mkdir "$work/data"
  mkfs.ext4 -q -F -L ledger -U 4c424f54-0000-4000-8000-000000000001 -m 0 -J size=8 \
    -E "offset=$(((boot_mib + 1) << 20)),lazy_itable_init=0,lazy_journal_init=0,hash_seed=4c424f54-0000-4000-8000-000000000002,root_owner=0:0" \
    -d "$work/data" "$tmp" $(((size - boot_mib - 1) * 1024))k
  rm -rf "$work" "$cache"/base-"$size"-*.img
  mv "$tmp" "$base"
}

[ -f "$base" ] || build_base

# ---- this guest's own copy ----------------------------------------------------------------------------------------------

cp --sparse=always "$base" "$out.tmp"
cfg=$(mktemp)
trap 'rm -f "$cfg"' EXIT
gateway=$(echo "${address%/*}" | sed 's/\.[0-9]*$/.2/')
args="console=tty0 console=ttyS0,115200 quiet loglevel=4 panic=5 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check"
args="$args lifeboat.address=$address lifeboat.gateway=$gateway lifeboat.http=$http lifeboat.hz=$hz lifeboat.witness=$witness"
[ -n "$oracle" ] && args="$args lifeboat.oracle=$oracle lifeboat.oracle_args=$oracle_args"
[ -n "$append" ] && args="$args $append"
printf 'DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX vmlinuz\n  INITRD initrd\n  APPEND %s\n' "$args" > "$cfg"
MTOOLS_SKIP_CHECK=1 mcopy -o -i "$out.tmp@@1M" "$cfg" ::syslinux.cfg
mv "$out.tmp" "$out"
if [ -n "$data" ]; then rm -f "$data"; truncate -s "${data_mib}M" "$data"; fi
say "$out is ready"
