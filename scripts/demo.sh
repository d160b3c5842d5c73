#!/usr/bin/env bash
# Lifeboat's main job on this machine, with a real virtual machine: protect it while it runs, drill two points, lose it,
# run it at the other site, make that final. Ends with an error when anything measured is not what was promised.
#
#   scripts/demo.sh [BIN]       BIN holds lifeboat and lifeboat-agent (target/release, or target/debug where that is not built)
#   KEEP=1 scripts/demo.sh      leaves everything running at the end and says how to look around
#   scripts/demo.sh stop DIR    ends what KEEP=1 left
#
# Root gets two network namespaces joined by a cable; everybody else, two directories on the loopback. Only processes
# started here are ever ended, each by its id; the directory is removed at the end, and kept with all logs after a failure.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

web=web-1                 # the protected machine
agent=host-a              # the agent beside it
ago=20                    # seconds; the second drill goes back this far
slack=5000                # milliseconds a line may take to the witness, and by which a point asked for by age may be older
boot=120                  # seconds a machine may take from start to service, on a slow host without KVM

# ---- speaking ----------------------------------------------------------------------------------------------------------

bold='' dim='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[1;31m' plain=$'\e[0m'; fi

step() { step_now=$1; printf '\n%s[%2d s] %s%s\n' "$bold" $((SECONDS - began)) "$1" "$plain"; }
say() { printf '  %s\n' "$*"; }
# A command as one would type it.
command_line() {
  local word line=
  for word; do
    case $word in *[!A-Za-z0-9_./:=,@+-]*) word="'$word'" ;; esac
    line="$line $word"
  done
  printf '  %s$%s%s\n' "$dim" "$line" "$plain"
}
fail() { printf '\n%sdemo: %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }
duration() { awk -v ms="$1" 'BEGIN { if (ms < 1000) printf "%d ms", ms; else printf "%.1f s", ms / 1000 }'; }
bytes() { numfmt --to=iec-i --suffix=B --format=%.1f "$1"; }

# ---- processes -----------------------------------------------------------------------------------------------------------

# When a process was started, in the kernel's ticks: with its id it names one process for ever.
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# start NAME COMMAND... runs it in the background, its output in NAME.log; its id is then in $pid.
start() {
  local name=$1; shift
  # Its own session: Ctrl-C is for this script, which ends the rest in order.
  setsid "$@" > "$dir/$name.log" 2>&1 < /dev/null &
  pid=$!
  disown "$pid"
  echo "$pid $(born "$pid") $name" >> "$dir/processes"
}

alive() { # alive ID BORN
  [ -n "$2" ] && [ "$(born "$1")" = "$2" ] && [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" != Z ]
}

end() { # end ID BORN: asks, then insists
  alive "$1" "$2" || return 0
  kill "$1" 2>/dev/null || return 0
  local n
  for n in $(seq 100); do alive "$1" "$2" || return 0; sleep 0.1; done
  kill -9 "$1" 2>/dev/null || true
}

end_named() { # end_named NAME
  local id at name
  while read -r id at name; do [ "$name" != "$1" ] || end "$id" "$at"; done < "$dir/processes"
}

# Ends all that was started for directory $dir, and the namespaces.
end_all() {
  local id at name file
  [ -f "$dir/processes" ] || return 0
  while read -r id at name; do end "$id" "$at"; done < <(tac "$dir/processes")
  # Machines outlive the site's daemon on purpose, so each is ended here, if it is one of this directory's.
  for file in "$dir"/site/runs/*/qemu.pid; do
    [ -f "$file" ] && id=$(tr -dc 0-9 < "$file") && [ -n "$id" ] || continue
    if tr '\0' '\n' < "/proc/$id/cmdline" 2>/dev/null | grep -qF -- "$file"; then end "$id" "$(born "$id")"; fi
  done
  [ ! -f "$dir/namespaces" ] || while read -r name; do ip netns del "$name" 2>/dev/null || true; done < "$dir/namespaces"
}

if [ "${1:-}" = stop ]; then
  dir=${2:-}
  [[ $dir == *lifeboat-demo.* ]] && [ -f "$dir/processes" ] || { echo "demo: name the directory of a demo: scripts/demo.sh stop DIR" >&2; exit 2; }
  dir=$(cd "$dir" && pwd)
  end_all
  rm -rf "$dir"
  echo "demo: $dir is stopped and removed"
  exit 0
fi

# wait_for SECONDS WHAT COMMAND...: asks until COMMAND succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for $what"
    sleep 0.2
  done
}

# ---- preparation -----------------------------------------------------------------------------------------------------------

for tool in qemu-system-x86_64 curl python3 e2fsck setsid; do
  command -v "$tool" > /dev/null || { echo "demo: $tool is missing; run scripts/setup.sh demo" >&2; exit 2; }
done
bin=${1:-${BIN:-}}
if [ -z "$bin" ]; then
  bin=$root/target/release
  [ -x "$bin/lifeboat" ] && [ -x "$bin/lifeboat-agent" ] || bin=$root/target/debug
fi
[ -x "$bin/lifeboat" ] && [ -x "$bin/lifeboat-agent" ] || { echo "demo: nothing is built in $bin; run make build" >&2; exit 2; }
bin=$(cd "$bin" && pwd)

began=$SECONDS
step_now='preparing'
dir=$(mktemp -d "${TMPDIR:-/tmp}/lifeboat-demo.XXXXXX")
: > "$dir/processes"

finish() {
  local code=$?
  trap - EXIT INT TERM HUP
  set +e
  if [ $code = 0 ] && [ -n "${KEEP:-}" ]; then exit 0; fi
  end_all
  if [ $code = 0 ]; then rm -rf "$dir"; exit 0; fi
  if [ $code -gt 128 ]; then
    rm -rf "$dir"
    printf '\ndemo: interrupted; everything is stopped and removed\n' >&2
    exit $code
  fi
  printf '%sdemo: failed at: %s%s\n' "$red" "$step_now" "$plain" >&2
  printf 'demo: everything is stopped; the logs are kept: %s/*.log\n' "$dir" >&2
  exit $code
}
trap finish EXIT
# Anything over 128 is an interruption, nothing else here ends so.
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Two places. A command is run at one of them with "${at_source[@]}" or "${at_site[@]}" before it.
at_source=() at_site=() site_address=127.0.0.1
make_places() {
  [ "$(id -u)" = 0 ] && command -v ip > /dev/null || return 1
  local s=lifeboat-demo-$$-source t=lifeboat-demo-$$-site
  printf '%s\n' $s $t > "$dir/namespaces"
  {
    ip netns add $s && ip netns add $t && ip -n $s link add veth0 type veth peer name veth0 netns $t &&
      ip -n $s addr add 10.99.0.1/24 dev veth0 && ip -n $t addr add 10.99.0.2/24 dev veth0 &&
      ip -n $s link set lo up && ip -n $t link set lo up && ip -n $s link set veth0 up && ip -n $t link set veth0 up
  } > "$dir/namespaces.log" 2>&1 || { ip netns del $s; ip netns del $t; rm "$dir/namespaces"; return 1; } 2> /dev/null
  at_source=(ip netns exec $s) at_site=(ip netns exec $t) site_address=10.99.0.2
}
# Ports of the loopback that are free now.
free_ports() {
  python3 -c 'import socket, sys
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[x.getsockname()[1] for x in s])' "$1"
}
if make_places; then
  api=8443 replication=1500 witness=9000 http=8080 listen=0.0.0.0
  where="in two network namespaces joined by a cable"
else
  read -r api replication witness http < <(free_ports 4)
  listen=127.0.0.1
  where="on this machine's loopback (root would get network namespaces)"
fi

# field PATH...: values of the JSON on standard input, for example times.ready_ms or forwards.0.address; - for null.
field() {
  python3 -c 'import json, sys
root = json.load(sys.stdin)
for path in sys.argv[1:]:
    v = root
    for k in path.split("."):
        v = None if v is None else v[int(k)] if isinstance(v, list) else v[k]
    print("-" if v is None else v, end=" ")' "$@" | sed 's/ $//'
}
# newest KIND: the newest run of that kind.
newest() {
  lb --json runs | python3 -c 'import json, sys
print(max((r["started"], r["id"]) for r in json.load(sys.stdin) if r["kind"] == sys.argv[1])[1])' "$1"
}
lb() { "$dir/lifeboat" "$@"; }
# The same, shown.
typed() { command_line lifeboat "$@"; lb "$@"; }
at_site_get() { "${at_site[@]}" curl -sf -m 5 --noproxy '*' "$1"; }
epoch_ms() { date -u -d "$1" +%s%3N; }

printf '%sLifeboat, the main job end to end%s\n' "$bold" "$plain"
say "two sites $where; everything is in $dir"

# ---- 1 the recovering site and the agent -------------------------------------------------------------------------------------

step "1  A recovering site, and an agent on the source host"
command_line lifeboat init "$dir/site" --name dr-1 --advertise "$site_address"
"$bin/lifeboat" --json init "$dir/site" --name dr-1 --advertise "$site_address" \
  --listen-api "$listen:$api" --listen-replication "$listen:$replication" > "$dir/init.json" || fail "the site could not be made"
(
  umask 077
  {
    echo "export LIFEBOAT_URL=https://$site_address:$api"
    echo "export LIFEBOAT_FINGERPRINT=$(field fingerprint < "$dir/init.json")"
    echo "export LIFEBOAT_TOKEN=$(field token < "$dir/init.json")"
  } > "$dir/env"
  rm "$dir/init.json"
  printf '#!/bin/sh\n# lifeboat, as typed at the recovering site\n. "%s/env"\nexec %s "%s/lifeboat" "$@"\n' \
    "$dir" "${at_site[*]}" "$bin" > "$dir/lifeboat"
  chmod 700 "$dir/lifeboat"
)
command_line lifeboat serve --dir "$dir/site"
start serve "${at_site[@]}" "$bin/lifeboat" serve --dir "$dir/site"
serve=$pid serve_born=$(born "$pid")
answers() {
  alive "$serve" "$serve_born" || { cat "$dir/serve.log" >&2; fail "the site's daemon ended"; }
  lb --json status > "$dir/status.json" 2> /dev/null
}
wait_for 30 "the site to answer" answers

command_line lifeboat token create --agent --name "$agent"
token=$(lb --json token create --agent --name "$agent" | field token)
command_line lifeboat-agent join --site "https://$site_address:$api" --token ...
LIFEBOAT_JOIN_TOKEN=$token "${at_source[@]}" "$bin/lifeboat-agent" --dir "$dir/agent" join \
  --site "https://$site_address:$api" --name "$agent" || fail "the agent could not join"
command_line lifeboat-agent run
start agent "${at_source[@]}" "$bin/lifeboat-agent" --dir "$dir/agent" run
connected() { [ "$(lb --json agents | field 0.connected)" = True ]; }
wait_for 30 "the agent to connect" connected
say "agent $agent is connected, with a certificate of its own"

# ---- 2 the machine to protect -------------------------------------------------------------------------------------------------

step "2  A machine worth protecting: ten lines a second into a ledger, each fsynced and told to a witness outside"
sim=${LIFEBOAT_SIM:-$root/target/guest/x86_64-unknown-linux-gnu/release/lifeboat-sim}
[ -x "$sim" ] || say "its program is compiled and its kernel fetched; only this first time, about a minute"
"$root/scripts/guest.sh" "$dir/web.img" --witness "10.0.2.2:$witness" > "$dir/guest.log" 2>&1 \
  || { cat "$dir/guest.log" >&2; fail "the guest's disk could not be built"; }
start witness "${at_source[@]}" "$sim" witness --listen "127.0.0.1:$witness" --out "$dir/witness"
# A /dev/kvm may be there and hang, so the source does without.
start vm "${at_source[@]}" qemu-system-x86_64 -name "$web" -nodefaults -M q35,accel=tcg -cpu max -m 256 -smp 1 \
  -display none -vga std -serial "file:$dir/web.serial" -qmp "unix:$dir/web.qmp,server=on,wait=off" \
  -netdev "user,id=net0,hostfwd=tcp:127.0.0.1:$http-:80" -device virtio-net-pci,netdev=net0,romfile= \
  -blockdev "driver=raw,node-name=disk0,discard=unmap,file.driver=file,file.filename=$dir/web.img,file.discard=unmap" \
  -device virtio-blk-pci,drive=disk0
vm=$pid vm_born=$(born "$pid")
source_answers() {
  alive "$vm" "$vm_born" || { cat "$dir/vm.log" >&2; fail "the source's QEMU ended"; }
  number=$("${at_source[@]}" curl -sf -m 5 --noproxy '*' "http://127.0.0.1:$http/number") && [ "$number" -ge 10 ]
}
wait_for $boot "the machine's service" source_answers
say "its service answers HTTP; the ledger is at line $number"

# What the witness heard: `number milliseconds` a line.
heard_last() { tail -n1 "$1" | cut -d' ' -f1; }
heard_by() { awk -v t="$1" '$2 <= t && $1 > n { n = $1 } END { print n + 0 }' "$dir/witness"; }
wait_for 10 "the witness to hear of it" test -s "$dir/witness"

# ---- 3 protect ------------------------------------------------------------------------------------------------------------------

step "3  Protect it while it runs: no reboot, no pause"
typed protect "$web" --agent "$agent" --qmp "$dir/web.qmp" --memory 256MiB --wait || fail "protecting $web failed"

# ---- 4 let it run ---------------------------------------------------------------------------------------------------------------

step "4  Every moment is kept from now on; the RPO is what would be lost if the machine died this instant"
told=0
old_enough() {
  lb --json server "$web" > "$dir/server.json" || return 1
  local oldest rpo health age
  read -r oldest rpo health < <(field runtime.oldest.time runtime.rpo_ms runtime.health < "$dir/server.json"; echo)
  [ "$oldest" != - ] || return 1
  age=$((($(date +%s%3N) - $(epoch_ms "$oldest")) / 1000))
  if [ $((SECONDS - told)) -ge 5 ]; then
    told=$SECONDS
    say "ledger at line $(heard_last "$dir/witness"), RPO $(duration "$rpo"), $health, points of the last $age s"
  fi
  [ $age -ge $((ago + 5)) ] && [ "$(heard_last "$dir/witness")" -gt $(((ago + 5) * 10)) ]
}
wait_for 90 "$((ago + 5)) s of points" old_enough
typed status
typed hold "$web" latest --name before-the-disaster || fail "the point could not be kept in the vault"
typed points "$web" --limit 5

# ---- 5 drills -------------------------------------------------------------------------------------------------------------------

# check_ledger RUN OUT: what the recovered machine found on its disk must be what the witness heard by the point's time.
# Sets `found`, the last line of the ledger at the point.
check_ledger() {
  local run=$1 address point least most
  lb --json run "$run" > "$2.json"
  read -r address point < <(field forwards.0.address point.time < "$2.json"; echo)
  found=$(at_site_get "http://$address/" | sed -n 's/^recovered=//p') || fail "the recovered service does not answer at $address"
  # Whole up to now, with what the copy has written since: every line's checksum covers the line before.
  at_site_get "http://$address/ledger" > "$2.ledger" && "$sim" ledger-check "$2.ledger" > "$2.verdict" \
    || fail "the recovered ledger is damaged: $(cat "$2.verdict")"
  # Heard before the point: must be there. A line told only after the point may be there, if it was written before:
  # the way to the witness takes a moment.
  least=$(heard_by "$(epoch_ms "$point")") most=$(heard_by $(($(epoch_ms "$point") + slack)))
  [ -n "$found" ] && [ "$found" -ge "$least" ] || fail "lines are missing: the point of $point ends at '$found', the witness had heard $least by then"
  [ "$found" -le $((most + 1)) ] || fail "the point of $point holds the future: it ends at line $found, $(duration $slack) later the witness had heard only $most"
  say "ledger whole; it ends at line $found, where it must: the witness had heard $least when the point was made"
}
drill() { # drill OUT POINT
  typed drill "$web" --point "$2" --check http:80 --check 'serial:recovered last=\d+ lines ok' || fail "the drill of $2 did not pass"
  run=$(newest drill)
  check_ledger "$run" "$1"
}
clean_up() { # clean_up RUN
  command_line lifeboat cleanup "${1:0:8}"
  lb cleanup "$1" > "$dir/cleanup.log" 2>&1 || { cat "$dir/cleanup.log" >&2; fail "the drill's machine could not be removed"; }
}

step "5  Drill the latest point: a copy runs in isolation, the original goes on"
drill "$dir/drill-latest" latest
newer=$found
clean_up "$run"

step "   and a drill of the machine as it was $ago s ago"
asked=$(date +%s%3N)
drill "$dir/drill-older" "${ago}s"
age=$((asked - $(epoch_ms "$(field point.time < "$dir/drill-older.json")")))
# The site takes the newest point that is old enough when it hears of it, which is a little after $asked.
[ $age -ge $((ago * 1000 - 2000)) ] && [ $age -le $((ago * 1000 + slack)) ] || fail "a point of ${ago}s ago was asked for and one of $(duration $age) ago came"
clean_up "$run"
[ -z "$(awk '$1 <= last { print } { last = $1 }' "$dir/witness")" ] || fail "a drill's machine reached the witness: it was not isolated"
say "meanwhile the original went on to line $(heard_last "$dir/witness"); neither drill (lines $newer and $found) reached the witness"

# ---- 6 the disaster ---------------------------------------------------------------------------------------------------------------

step "6  Disaster: kill -9 of the source machine"
lb --json server "$web" > "$dir/server.json"
read -r received content disk < <(field runtime.received_bytes runtime.content_bytes disks.0.size < "$dir/server.json"; echo)
command_line kill -9 "$vm"
kill -9 "$vm"
gone() { ! alive "$vm" "$vm_born"; }
wait_for 10 "the source to be gone" gone
lost_at=$(date +%s%3N)
end_named witness
last=$(heard_last "$dir/witness")
say "the last line the witness heard is $last"

# ---- 7 failover ---------------------------------------------------------------------------------------------------------------------

step "7  Fail over: the newest point runs at the recovering site, for real"
# The recovered machine tells its numbers to a witness at its new home, at the address it always did.
start witness-2 "${at_site[@]}" "$sim" witness --listen "127.0.0.1:$witness" --out "$dir/witness-2"
typed failover "$web" --yes --network user --check http:80 || fail "the failover did not pass"
run=$(newest failover)
check_ledger "$run" "$dir/failover"
recovered=$found
goes_on() { [ -s "$dir/witness-2" ] && [ "$(heard_last "$dir/witness-2")" -gt "$recovered" ]; }
wait_for 30 "the recovered service to go on" goes_on
answered=$(date +%s%3N)
first=$(head -n1 "$dir/witness-2" | cut -d' ' -f1)
[ "$first" = $((recovered + 1)) ] || fail "the recovered service went on with line $first, not with $((recovered + 1))"
say "the service goes on with line $first"

# ---- 8 what it was worth ----------------------------------------------------------------------------------------------------------------

step "8  Check the recovered disk from outside: the point, exported, its file system checked"
point=$(field point.id < "$dir/failover.json")
typed export "$web" --point "$point" -o "$dir/point.img" || fail "the point could not be exported"
# Partition 2 begins at 41 MiB (scripts/guest.sh). First the journal is replayed, as any mount would; then nothing may be wrong.
dd if="$dir/point.img" of="$dir/point.ext4" bs=1M skip=41 conv=sparse status=none
e2fsck -p "$dir/point.ext4" > "$dir/fsck.log" 2>&1 || [ $? = 1 ] || { cat "$dir/fsck.log" >&2; fail "the file system needs more than its journal"; }
e2fsck -fn "$dir/point.ext4" >> "$dir/fsck.log" 2>&1 || { cat "$dir/fsck.log" >&2; fail "the file system is damaged"; }
say "e2fsck finds nothing after the journal's replay"

lost=$((last > recovered ? last - recovered : 0))
read -r rpo rto qemu < <(field rpo_ms times.ready_ms times.started_ms < "$dir/failover.json"; echo)
[ "$rpo" != - ] && [ "$rto" != - ] || fail "the failover measured no RPO or no RTO"
pause=$(awk 'NR > 1 && $2 - before > most { most = $2 - before } { before = $2 } END { print most + 0 }' "$dir/witness")

step "9  Commit: this is its home now"
typed commit "$web" --yes || fail "the commit failed"

# ---- summary -------------------------------------------------------------------------------------------------------------------

row() { printf '  %-34s %s\n' "$1" "$2"; }
printf '\n%sWhat was measured%s\n' "$bold" "$plain"
row "last line the witness heard" "$last"
row "last line recovered" "$recovered"
row "lines lost" "$lost"
row "RPO (age of the point when asked)" "$(duration "$rpo")"
row "RTO (request to HTTP answered)" "$(duration "$rto"), of which $(duration "$qemu") to QEMU started"
row "source killed to next line heard" "$(duration $((answered - lost_at)))"
row "fsck of the recovered disk" "clean after the journal's replay"
row "longest pause of the source" "$(duration "$pause") between two lines (100 ms is its beat), while protected and drilled"
row "sent over the link" "$(bytes "$received") for $(bytes "$content") of content; the disk is $(bytes "$disk")"
row "line the service is at now" "$(heard_last "$dir/witness-2")"
row "this demo took" "$((SECONDS - began)) s"
if [ -n "${KEEP:-}" ]; then
  address=$(field forwards.0.address < "$dir/failover.json")
  printf '\n%sLook around%s: everything is still running, and %s/lifeboat has address and token\n' "$bold" "$plain" "$dir"
  row "the one screen" "$dir/lifeboat status"
  row "the failover, its checks and times" "$dir/lifeboat run ${run:0:8}"
  row "what the recovered machine said" "$dir/lifeboat serial ${run:0:8}"
  row "who did what" "$dir/lifeboat audit"
  row "the recovered service" "${at_site[*]:+${at_site[*]} }curl http://$address/tail"
  row "logs, ledgers, the witness's books" "ls $dir"
  row "end it all, leave nothing behind" "$root/scripts/demo.sh stop $dir"
else
  printf '\n%sTo look around%s, run it again with KEEP=1: it leaves the recovered machine and the site running,\nand says how to ask them (lifeboat status, run, serial, audit), and how to end it all.\n' "$bold" "$plain"
fi
