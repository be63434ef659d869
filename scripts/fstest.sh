#!/bin/bash
# Runs xfstests and pjdfstest, from checkouts that are built, against asyncfsd on loop devices:
# each test on its own, with a time limit, and e2fsck -fn after it. Needs root.
#
#   XFSTESTS_DIR, PJDFSTEST_DIR  the checkouts; without one its suite is left out
#   TESTS       what to run, such as "generic/001 rename/22"; all that are quick, by default
#   ASYNCFSD    the binary, ./asyncfsd by default
#   OPTIONS     more mount options; mount options begin with kernel
#   RESULTS     where the table and what the tests print go, build/fstest by default
#   LIMIT       seconds that a test may take, 120 by default
set -u

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
asyncfsd=$(realpath "${ASYNCFSD:-$top/asyncfsd}")
results=${RESULTS:-$top/build/fstest}
limit=${LIMIT:-120}
options=kernel${OPTIONS:+,$OPTIONS}
# mount(8) and umount(8) look for helpers here and nowhere else.
helpers="/sbin/mount.fuse.asyncfsd /sbin/umount.fuse.asyncfsd"

fail() { echo "fstest: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "needs root"
[ -x "$asyncfsd" ] || fail "$asyncfsd is missing: make build"
[ -n "${XFSTESTS_DIR:-}${PJDFSTEST_DIR:-}" ] || fail "XFSTESTS_DIR or PJDFSTEST_DIR is needed"
mkdir -p "$results" || exit 1
results=$(cd "$results" && pwd)
table=$results/table
: >"$table"

# On /tmp, for nobody but root passes through a home directory, and the tests become others.
work=$(mktemp -d /tmp/fstest-XXXXXX)
chmod 755 "$work"
mkdir "$work/test" "$work/scratch"
linked=()
devices=()

cleanup() {
    trap - EXIT
    release "$work/test"
    release "$work/scratch"
    rm -f "${linked[@]}"
    for device in "${devices[@]}"; do losetup -d "$device"; done
    # Nothing is removed below a mountpoint that is still in use.
    rmdir "$work/test" "$work/scratch" && rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# release unmounts what is mounted on a directory, by force if need be, and waits for the data.
release() {
    for _ in 1 2 3 4 5; do
        mountpoint -q "$1" || return 0
        timeout 60 "$asyncfsd" umount "$1" 2>/dev/null && continue
        sleep 1
    done
    # NB: by force means that the connection is cut, which ends a daemon that hangs.
    "$asyncfsd" umount --force "$1" || umount -l "$1"
    sleep 2
}

# loop makes a loop device of an image of 4 GiB, and names it in $device.
loop() {
    truncate -s "${SIZE:-4G}" "$work/$1.img"
    device=$(losetup -f --show "$work/$1.img") || fail "no loop device"
    devices+=("$device")
}

# consistent unmounts and has e2fsck find nothing; what it finds is kept, and the device made anew.
consistent() { # NAME MOUNTPOINT DEVICE
    release "$2"
    timeout 120 e2fsck -fn "$3" >"$work/fsck" 2>&1 && return 0
    { echo "e2fsck -fn:"; cat "$work/fsck"; } >>"$results/$1.out"
    mke2fs -q -F -t ext4 "$3"
    return 1
}

report() { # NAME RESULT SECONDS
    printf '%-20s %-8s %4s\n' "$@" | tee -a "$table"
}

# run runs one test within its time; its status is in $status, 124 when it was too long.
run() { # NAME COMMAND...
    local out=$results/$1.out
    mkdir -p "${out%/*}"
    shift
    timeout -k 20 "$limit" "$@" >"$out" 2>&1 </dev/null
    status=$?
}

wanted() { # ALL
    echo "${TESTS:-$1}" | tr ' ' '\n' | grep -x -F -e "$1"
}

pjdfstest() {
    # In a copy, so that the tests know which filesystem this is: some ask for ext4 by its name.
    cp -r "$PJDFSTEST_DIR" "$work/pjdfstest" && cd "$work/pjdfstest/tests" || exit 1
    [ -x ../pjdfstest ] || fail "$PJDFSTEST_DIR is not built"
    printf 'os=Linux\nGREP=grep\nfs=EXT4\n' >conf
    local name result begun ok=0 bad=0
    for name in $(wanted "$(ls ./*/*.t | sed 's/..//; s/\.t$//')"); do
        begun=$SECONDS
        "$asyncfsd" -o "$options" "$device" "$work/test" || fail "cannot mount"
        cd "$work/test" || exit 1
        run "pjdfstest/$name" prove -v "$work/pjdfstest/tests/$name.t"
        cd /
        case $status in 0) result=pass ;; 124 | 137) result=timeout ;; *) result=fail ;; esac
        consistent "pjdfstest/$name" "$work/test" "$device" || result=fsck
        ok=$((ok + $(grep -c '^ok' "$results/pjdfstest/$name.out")))
        bad=$((bad + $(grep '^not ok' "$results/pjdfstest/$name.out" | grep -vc TODO)))
        report "$name" $result $((SECONDS - begun))
    done
    echo "pjdfstest: $ok assertions ok, $bad failed" | tee -a "$results/summary"
}

# quick lists the generic tests that are quick.
quick() {
    awk '/ quick/ && /^[0-9]/ { print "generic/" $1 }' "$XFSTESTS_DIR/tests/generic/group.list"
}

xfstests() {
    local test=$device name result begun
    loop scratch
    mke2fs -q -F -t ext4 "$device"
    [ -x "$XFSTESTS_DIR/ltp/fsstress" ] || fail "$XFSTESTS_DIR is not built"
    cat >"$work/config" <<EOF
FSTYP=fuse
FUSE_SUBTYP=.asyncfsd
TEST_DEV=$test
TEST_DIR=$work/test
SCRATCH_DEV=$device
SCRATCH_MNT=$work/scratch
MOUNT_OPTIONS="-o $options,fsname=$device"
TEST_FS_MOUNT_OPTS="-o $options,fsname=$test"
RESULT_BASE=$results/check
DF_PROG=$work/df
WIPEFS_PROG=
EOF
    # NB: what wipes a device before each test is left out, as nothing makes a filesystem after it.
    # The suite compares the type that df shows with FSTYP, which knows no subtypes.
    printf '#!/bin/sh\ndf -T -P "$@" | sed s/fuse[.]asyncfsd/fuse/\n' >"$work/df"
    chmod 755 "$work/df"
    cd "$XFSTESTS_DIR" || exit 1
    for name in $(wanted "$(quick)"); do
        begun=$SECONDS
        run "$name" env HOST_OPTIONS="$work/config" ./check "$name"
        case $status in 0) result=pass ;; 124 | 137) result=timeout ;; *) result=fail ;; esac
        ! grep -q '^Not run:' "$results/$name.out" || result=notrun
        cat "$results/check/$name.out.bad" >>"$results/$name.out" 2>/dev/null
        consistent "$name" "$work/test" "$test" || result=fsck
        consistent "$name" "$work/scratch" "$device" || result=fsck
        report "$name" $result $((SECONDS - begun))
    done
}

: >"$results/summary"
loop test
mke2fs -q -F -t ext4 "$device"
[ -z "${PJDFSTEST_DIR:-}" ] || pjdfstest
if [ -n "${XFSTESTS_DIR:-}" ]; then
    for link in $helpers; do
        [ -e "$link" ] || { ln -s "$asyncfsd" "$link" && linked+=("$link"); }
    done
    xfstests
fi
awk '{ n[$2]++ } END { for (r in n) print n[r], r }' "$table" | sort -rn | tee -a "$results/summary"
! grep -qE ' (fail|fsck|timeout) ' "$table"
