#!/bin/bash
# Runs xfstests and pjdfstest, from checkouts that are built, against asyncfsd or the kernel's ext4
# on loop devices: each test on its own, with a time limit, and e2fsck -fn after it. Needs root.
#
#   XFSTESTS_DIR, PJDFSTEST_DIR  the checkouts; without one its suite is left out
#   FS          asyncfsd, or kernel for the kernel's ext4, which the table is compared with
#   TESTS       what to run, such as "generic/001 rename/22"; by default everything of pjdfstest,
#               and of xfstests the generic tests that are in the groups auto and quick
#   GROUPS_     groups of xfstests to take instead, such as "shutdown log"
#   MKFS        what mke2fs is told, such as "-b 1024" or "-O ^extents"
#   ASYNCFSD    the binary, ./asyncfsd by default
#   OPTIONS     more mount options; asyncfsd's begin with kernel
#   RESULTS     where the table and what the tests print go, build/fstest by default
#   LIMIT       seconds that a test may take, 120 by default
#
# The table has a line for each test: name, result, seconds, and why it is not a pass.
set -u

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
fs=${FS:-asyncfsd}
asyncfsd=$(realpath "${ASYNCFSD:-$top/asyncfsd}")
results=${RESULTS:-$top/build/fstest}
limit=${LIMIT:-120}
options=acl,user_xattr${OPTIONS:+,$OPTIONS}
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
mkdir "$work/test" "$work/scratch" "$work/bin"
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
    for _ in 1 2 3 4 5 6 7 8; do
        mountpoint -q "$1" || return 0
        if [ "$fs" = asyncfsd ]; then
            timeout 60 "$asyncfsd" umount "$1" 2>/dev/null && continue
        else
            timeout 60 umount "$1" 2>/dev/null && continue
        fi
        sleep 1
    done
    echo "fstest: $1 is still in use, unmounted by force" >&2
    # NB: by force means that the connection is cut, which ends a daemon that hangs.
    "$asyncfsd" umount --force "$1" 2>/dev/null || umount -l "$1"
    sleep 2
}

# loop makes a loop device of an image of 4 GiB, and names it in $device.
loop() {
    truncate -s "${SIZE:-4G}" "$work/$1.img"
    device=$(losetup -f --show "$work/$1.img") || fail "no loop device"
    devices+=("$device")
    format "$device"
}

format() { # DEVICE
    # shellcheck disable=SC2086 # several words
    mke2fs -q -F -t ext4 ${MKFS:-} "$1" || fail "mke2fs"
}

attach() { # DEVICE MOUNTPOINT
    if [ "$fs" = asyncfsd ]; then
        "$asyncfsd" -o "kernel,$options" "$1" "$2" || fail "cannot mount"
    else
        mount -t ext4 -o "$options" "$1" "$2" || fail "cannot mount"
    fi
}

# consistent unmounts and has e2fsck find nothing; what it finds is kept, and the device made anew.
consistent() { # NAME MOUNTPOINT DEVICE
    release "$2"
    # NB: a test may have put something else on the scratch device, or nothing at all.
    [ "$(blkid -p -o value -s USAGE -s TYPE "$3" | grep -c ext)" = 1 ] || { format "$3"; return 0; }
    timeout 120 e2fsck -fn "$3" >"$work/fsck" 2>&1 && return 0
    # What a shutdown leaves in the journal is for the next mount.
    if grep -q 'skipping journal recovery' "$work/fsck"; then
        e2fsck -p "$3" >>"$work/fsck" 2>&1
        timeout 120 e2fsck -fn "$3" >>"$work/fsck" 2>&1 && return 0
    fi
    { echo "e2fsck -fn $3:"; cat "$work/fsck"; } >>"$results/$1.out"
    format "$3"
    return 1
}

report() { # NAME RESULT SECONDS WHY
    printf '%-20s %-8s %4s %s\n' "$@" | tee -a "$table"
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
        attach "$device" "$work/test"
        cd "$work/test" || exit 1
        run "pjdfstest/$name" prove -v "$work/pjdfstest/tests/$name.t"
        cd /
        case $status in 0) result=pass ;; 124 | 137) result=timeout ;; *) result=fail ;; esac
        consistent "pjdfstest/$name" "$work/test" "$device" || result=fsck
        ok=$((ok + $(grep -c '^ok' "$results/pjdfstest/$name.out")))
        bad=$((bad + $(grep '^not ok' "$results/pjdfstest/$name.out" | grep -vc TODO)))
        report "$name" $result $((SECONDS - begun)) ""
    done
    echo "pjdfstest: $ok assertions ok, $bad failed" | tee -a "$results/summary"
}

# listed lists the tests of xfstests that are wanted by default, or all if some are chosen by name.
listed() {
    local group list
    for list in "$XFSTESTS_DIR"/tests/{generic,ext4}/group.list; do
        group=$(basename "$(dirname "$list")")
        [ "$group" = generic ] || [ -n "${GROUPS_:-}${TESTS:-}" ] || continue
        awk -v dir="$group" -v groups="${GROUPS_:-}" -v all="${TESTS:-}" '
            BEGIN { n = split(groups, some, " ") }
            !/^[0-9]/ { next }
            all != "" { print dir "/" $1; next }
            n == 0 && / auto/ && / quick/ { print dir "/" $1 }
            n > 0 { for (i = 1; i <= n; i++) if (index($0 " ", " " some[i] " ")) {
                print dir "/" $1; next } }' "$list"
    done
}

# stand_ins puts programs first in PATH that make the suite see asyncfsd where it asks for ext4: so
# it makes, tunes and checks filesystems as for ext4, and asks of them what it asks of ext4.
# mount mounts an ext2, ext3 or ext4 by way of asyncfsd; for df and findmnt such mounts are
# of the type ext4.
stand_ins() {
    [ "$fs" = asyncfsd ] || return 0
    cat >"$work/bin/mount" <<'END'
#!/bin/bash
# An ext2, ext3 or ext4 is asyncfsd's; anything else goes to mount(8) as it is. What mount(8) would
# have said of a device that cannot be written is said in its words.
args=() type='' plain=yes places=() all=
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
    -t) ((i++)); type=${!i} ;;
    -t*) type=${!i}; type=${type#-t} ;;
    -o) ((i++)); all+=,${!i}; args+=(-o "${!i}") ;;
    -o*) all+=,${!i#-o}; args+=("${!i}") ;;
    -r) all+=,ro; args+=(-r) ;;
    --bind | --rbind | --move | --make-* | -B | -R | -M | -a) plain=; args+=("${!i}") ;;
    -*) args+=("${!i}") ;;
    *) places+=("${!i}"); args+=("${!i}") ;;
    esac
done
source=${places[0]:-}
case $all, in *,bind,* | *,rbind,* | *,move,* | *,remount,*) plain= ;; esac
if [ -n "$plain" ] && [ -z "$type" ] && { [ -b "$source" ] || [ -f "$source" ]; }; then
    found=$(blkid -p -o value -s TYPE "$source")
    [[ $found != ext[234] ]] || type=$found
fi
case $plain$type in
yesext[234]) ;;
ext[234] | yes | '') exec REAL "${args[@]}" ;;
*) exec REAL -t "$type" "${args[@]}" ;;
esac
said=$(REAL -t fuse.asyncfsd -o kernel,uhelper=fuse.asyncfsd "${args[@]}" 2>&1)
status=$?
where=${places[1]:-}
grep -v "journal not replayed\|mounted read-only: \|needs write access\|^$" <<<"$said" >&2
if [[ $said == *"needs write access"* ]]; then
    echo "mount: $where: cannot mount $source read-only." >&2
elif [ $status = 0 ] && [ "$(blockdev --getro "$source" 2>/dev/null)" = 1 ] &&
    [[ $all, != *,ro,* ]]; then
    echo "mount: $where: WARNING: source write-protected, mounted read-only." >&2
fi
exit $status
END
    sed -i "s|REAL|$(type -P mount)|g" "$work/bin/mount"
    printf '#!/bin/sh\n%s "$@" | sed "s/fuse[.]asyncfsd/ext4/"\n' "$(type -P df)" >"$work/bin/df"
    cat >"$work/bin/findmnt" <<END
#!/bin/bash
exec $(type -P findmnt) "\${@/#ext[234]/fuse.asyncfsd}"
END
    chmod 755 "$work"/bin/*
    for link in $helpers; do
        [ -e "$link" ] || { ln -s "$asyncfsd" "$link" && linked+=("$link"); }
    done
}

# why says in a line what kept a test from passing.
why() { # NAME RESULT
    case $2 in
    notrun) cat "$results/check/$1.notrun" 2>/dev/null || grep -m1 'not run\]' "$results/$1.out" ;;
    fail) { grep '^    [+-]' "$results/$1.out" | grep -v '^    [+-]*\(--\|++\) ' |
            grep -m1 '^    +' || grep -m1 'failed\|_check_' "$results/$1.out"; } | cut -c5-150 ;;
    fsck) grep -A9 '^e2fsck -fn' "$results/$1.out" | grep -v '^Pass\|^e2fsck' | head -1 ;;
    esac | tr -s '\n\t ' ' '
}

xfstests() {
    local test=$device name result begun
    loop scratch
    [ -x "$XFSTESTS_DIR/ltp/fsstress" ] || fail "$XFSTESTS_DIR is not built"
    cat >"$work/config" <<END
FSTYP=ext4
TEST_DEV=$test
TEST_DIR=$work/test
SCRATCH_DEV=$device
SCRATCH_MNT=$work/scratch
MOUNT_OPTIONS="-o $options"
TEST_FS_MOUNT_OPTS="-o $options"
MKFS_OPTIONS="${MKFS:-}"
RESULT_BASE=$results/check
END
    stand_ins
    cd "$XFSTESTS_DIR" || exit 1
    for name in $(wanted "$(listed)"); do
        begun=$SECONDS
        run "$name" env PATH="$work/bin:$PATH" HOST_OPTIONS="$work/config" ./check "$name"
        case $status in 0) result=pass ;; 124 | 137) result=timeout ;; *) result=fail ;; esac
        ! grep -q '^Not run:' "$results/$name.out" || result=notrun
        cat "$results/check/$name.out.bad" >>"$results/$name.out" 2>/dev/null
        consistent "$name" "$work/test" "$test" || result=fsck
        consistent "$name" "$work/scratch" "$device" || result=fsck
        report "$name" $result $((SECONDS - begun)) "$(why "$name" $result)"
    done
}

: >"$results/summary"
loop test
[ -z "${PJDFSTEST_DIR:-}" ] || pjdfstest
[ -z "${XFSTESTS_DIR:-}" ] || xfstests
awk '{ n[$2]++ } END { for (r in n) print n[r], r }' "$table" | sort -rn | tee -a "$results/summary"
! grep -qE ' (fail|fsck|timeout) ' "$table"
