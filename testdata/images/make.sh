#!/bin/bash
# Makes the test images and their manifests. Run as root:
#
#   make.sh [NAME…]         makes all images, or the named ones
#   make.sh verify [NAME…]  mounts each image with the kernel's ext4 and compares its manifest
#   make.sh list            lists the names
#
# Images made by debugfs come out the same every time, those of mke2fs -d up to the ctimes of the
# tree: UUID and hash seed follow from the name, and the clock of e2fsprogs is fixed. The kernel's own times, generation numbers
# and journal IDs cannot be fixed, so remaking those images changes bytes.
set -euo pipefail
export LC_ALL=C TZ=UTC
cd "$(dirname "$0")"
here=$PWD
work=$(mktemp -d)
mnt=$work/mnt
tool=$work/tool
export MKE2FS_CONFIG=$here/mke2fs.conf E2FSPROGS_FAKE_TIME=1700000000 MKE2FS_SKIP_CHECK_MSG=1

ext2=ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file
ext3=has_journal,$ext2
ext4_32=$ext3,extent,flex_bg,huge_file,dir_nlink,extra_isize # 32-byte descriptors, no checksums
ext4=$ext4_32,64bit,metadata_csum

die() {
    echo "make.sh: ${name:-}: $*" >&2
    exit 1
}

declare -A loops=()
cleanup() {
    mountpoint -q "$mnt" && umount "$mnt"
    for dev in "${!loops[@]}"; do losetup -d "$dev" 2>/dev/null || true; done
    chattr -R -ia "$work" 2>/dev/null || true
    rm -rf "$work"
}

# attach FILE: sets dev to a loop device of it.
attach() {
    dev=$(losetup -f --show "$1")
    loops[$dev]=1
}

# detach DEVICE: NB: it may be somebody else's right afterwards.
detach() {
    losetup -d "$1"
    unset "loops[$1]"
}

# create SIZE BLOCKSIZE FEATURES [mke2fs arguments]: an empty filesystem in $img, with 400 inodes
# unless -N or -i is given. The variable ext holds further -E options.
create() {
    local size=$1 bs=$2 features=$3 journal=() inodes=(-N 400)
    shift 3
    rm -f "$img"
    truncate -s "$size" "$img"
    if [[ ,$features, == *,has_journal,* && " $* " != *" -J "* ]]; then
        journal=(-J "size=$((bs > 1024 ? bs / 1024 : 1))") # 1024 blocks, the least allowed
    fi
    [[ " $* " == *" -N "* || " $* " == *" -i "* ]] && inodes=()
    mke2fs -q -F -b "$bs" "${inodes[@]}" -O "none,$features" -U "$(uuid "$name")" "${journal[@]}" \
        -E "hash_seed=$(uuid seed),lazy_itable_init=0,lazy_journal_init=0,nodiscard${ext:+,$ext}" \
        "$@" "$img" >"$work/log" 2>&1 || die "mke2fs: $(cat "$work/log")"
}

# uuid TEXT: a UUID that follows from the text.
uuid() { md5sum <<<"$1" | sed -E 's/(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/'; }

# kmount [OPTIONS] [FILE]: mounts with the kernel's ext4.
kmount() { mount -t ext4 -o "loop,noatime${1:+,$1}" "${2:-$img}" "$mnt"; }

# with KIND…: mounts, fills (see the tool's fill) and unmounts. "KIND:ARG:ARG" has arguments.
with() {
    kmount "${opts:-}"
    local kind
    for kind in "$@"; do
        IFS=: read -ra words <<<"$kind"
        "$tool" fill "${words[0]}" "$mnt" "${words[@]:1}"
    done
    umount "$mnt"
}

# crash FLAG KIND…: mounts, works, and shuts down as a power cut would.
crash() {
    local flag=$1 kind
    shift
    kmount "${opts:-}"
    for kind in "$@"; do
        IFS=: read -ra words <<<"$kind"
        "$tool" fill "${words[0]}" "$mnt" "${words[@]:1}"
    done
    "$tool" shutdown "$mnt" "$flag"
    umount "$mnt"
    dumpe2fs -h "$img" 2>/dev/null | grep -q needs_recovery || die "the log is clean"
}

# dbg COMMAND…: runs debugfs commands on $img (or $on) and fails on what they complain about.
dbg() {
    printf '%s\n' "$@" >"$work/commands"
    debugfs -w -f "$work/commands" "${on:-$img}" >"$work/out" 2>"$work/err" || die "debugfs"
    if grep -v '^debugfs [0-9]' "$work/err" >&2; then die "debugfs: $*"; fi
}

# poke OFFSET HEX…: writes bytes into the image. "00*N" is N zeros.
poke() {
    local offset=$1 byte
    shift
    if [[ $1 == 00\** ]]; then
        head -c "${1#*\*}" /dev/zero |
            dd of="$img" bs=1 seek=$((offset)) conv=notrunc status=none
        return
    fi
    for byte in "$@"; do printf '%b' "\\x$byte"; done |
        dd of="$img" bs=1 seek=$((offset)) conv=notrunc status=none
}

# inode PATH: sets at to the byte offset of the file's inode in $img.
inode() {
    local bs
    bs=$(blocksize "$img")
    at=$(debugfs -R "imap $1" "$img" 2>/dev/null |
        sed -nE 's/.*block ([0-9]+), offset (0x[0-9a-f]+).*/\1 \2/p')
    [[ $at ]] || die "no inode for $1"
    at=$((${at% *} * bs + ${at#* }))
}

# block PATH LBLK: sets at to the byte offset of a block of the file.
block() {
    at=$(debugfs -R "bmap $1 $2" "$img" 2>/dev/null)
    at=$((at * $(blocksize "$img")))
    [[ $at != 0 ]] || die "no block $2 in $1"
}

blocksize() { dumpe2fs -h "$1" 2>/dev/null | sed -n 's/^Block size: *//p'; }

# check FILE: the filesystem must be clean.
check() { e2fsck -fn "$1" >"$work/log" 2>&1 || die "e2fsck: $(cat "$work/log")"; }

# fix FILE: lets e2fsck bring counters and quota files up to date after debugfs.
fix() { e2fsck -fy "$1" >"$work/log" 2>&1 || [ $? = 1 ] || die "e2fsck: $(cat "$work/log")"; }

# finish KEY=VALUE…: writes manifest, packed image and the row of the table. Keys are those of
# images.json, and: tree=DIR (source=tree), twin="debugfs command;command…" or
# twinfile=FILE (source=twin), nofsck=1, inner=FILE (the filesystem that was put into the image).
finish() {
    local -A key=([source]=kernel)
    local arg row=()
    for arg in "$@"; do key[${arg%%=*}]=${arg#*=}; done
    rm -f "$here/$name.manifest" "$here/$name.manifest.zst"
    if [[ ! ${key[dirty]:-} && ! ${key[mount_error]:-} && ! ${key[corrupt]:-} &&
        ! ${key[nofsck]:-} ]]; then check "${key[inner]:-$img}"; fi
    [[ ${key[mount_error]:-} && ! ${key[sb]:-} ]] && key[source]=""
    if [[ ${key[twin]:-}${key[twinfile]:-} ]]; then key[source]=twin key[ignore]=flags; fi
    if [[ ${key[tree]:-} ]]; then
        key[source]=tree key[ignore]=ino,dino,blocks,crtime,ctime,dirsize,flags,gen,atime,data
    fi
    write_manifest
    zstd -q -19 -f "$img" -o "$here/$name.img.zst"
    for arg in made about source ignore dirty journal offset partition read_only mount_error \
        kernel_cannot corrupt damaged sb lookups; do row+=("$arg=${key[$arg]:-}"); done
    row+=("name=$name" "size=$(stat -c %s "$img")")
    row+=("block_size=$(blocksize "${key[inner]:-$img}" || true)")
    row+=("features=$(dumpe2fs -h "${key[inner]:-$img}" 2>/dev/null |
        sed -n 's/^Filesystem features: *//p' || true)")
    "$tool" row "$here" "${row[@]}"
    printf '%-24s %8d %s\n' "$name" "$(stat -c %s "$here/$name.img.zst")" "${key[about]:-}"
}

# write_manifest: as finish's key array says.
write_manifest() {
    local copy=$work/copy.img
    case ${key[source]} in
    "") # the kernel has to refuse it, too, unless it is only us who cannot know
        if [[ ! ${key[nomount]:-} ]] && kmount ro 2>/dev/null; then
            umount "$mnt"
            die "the kernel mounts it"
        fi
        return ;;
    tree)
        "$tool" walk "${key[tree]}" "$here/$name.manifest"
        if kmount ro 2>/dev/null; then
            umount "$mnt"
            die "the kernel mounts it: use its manifest"
        fi
        return ;;
    esac
    cp --sparse=always "${key[twinfile]:-$img}" "$copy"
    if [[ ${key[twin]:-} ]]; then
        local IFS=';'
        # shellcheck disable=SC2086  # split at the semicolons
        on=$copy dbg ${key[twin]}
    fi
    if [[ ${key[dirty]:-}${key[journal]:-} ]]; then recover "$copy" "${key[journal]:-}"; fi
    kmount "ro${key[offset]:+,offset=${key[offset]}}${key[sb]:+,sb=${key[sb]}}" "$copy" ||
        die "mount"
    "$tool" walk "$mnt" "$here/$name.manifest"
    umount "$mnt"
    rm -f "$copy"
}

# recover FILE [JOURNAL]: lets the kernel replay the log.
recover() {
    [[ -v key ]] || local -A key=([nofsck]=1) # verify: finish has checked it
    local external=""
    if [[ ${2:-} ]]; then
        cp --sparse=always "$work/$2.img" "$work/journal.copy"
        attach "$work/journal.copy"
        external=journal_path=$dev
    fi
    kmount "$external" "$1" || die "recovery"
    umount "$mnt"
    if [[ $external ]]; then
        # The log is empty now, and a plain read-only mount need not see the device.
        detach "$dev"
        tune2fs -f -O ^has_journal "$1" >/dev/null 2>&1 || die "tune2fs"
    fi
    [[ ${key[nofsck]:-} ]] || check "$1"
}

# source_tree KIND…: sets tree to a directory filled for mke2fs -d.
source_tree() {
    tree=$work/tree
    chattr -R -ia "$tree" 2>/dev/null || true
    rm -rf "$tree"
    mkdir "$tree"
    local kind
    for kind in "$@"; do
        IFS=: read -ra words <<<"$kind"
        "$tool" fill "${words[0]}" "$tree" "${words[@]:1}"
    done
    mkdir -m 700 "$tree/lost+found"
    find "$tree" -exec touch -h -d @1600000000 {} + 2>/dev/null || true
    # What mke2fs makes itself has its own clock.
    touch -d "@$E2FSPROGS_FAKE_TIME" "$tree" "$tree/lost+found"
}

# shellcheck source=images.sh
source "$here/images.sh"

names() { declare -F | sed -n 's/^declare -f img_//p'; }

# verify_row: compares one line of the tool's list.
verify_row() {
    local source ignore dirty journal offset mount_error kernel_cannot corrupt sb options
    IFS='|' read -r name source ignore dirty journal offset mount_error kernel_cannot corrupt \
        sb <<<"$1"
    img=$work/$name.img
    "$tool" unpack "$here" "$name" "$img"
    if [[ $mount_error ]]; then
        if [[ ! $kernel_cannot ]] && kmount ro 2>/dev/null; then umount "$mnt" && die "mounts"; fi
    fi
    if [[ $source == kernel ]]; then
        [[ $journal ]] && "$tool" unpack "$here" "$journal" "$work/$journal.img"
        [[ $dirty$journal ]] && recover "$img" "$journal"
        options=ro
        [[ $offset != 0 ]] && options+=,offset=$offset
        [[ $sb != 0 ]] && options+=,sb=$sb
        kmount "$options" || die "mount"
        "$tool" diff -ignore "$ignore" "$here/$name.manifest" "$mnt" || die "differs"
        umount "$mnt"
    elif [[ $source ]]; then
        check "$img" # the kernel cannot read it
    fi
    rm -f "$img"
    echo "ok $name ${source:-refused}"
}

verify() {
    local line
    while IFS= read -r line; do
        if (($# == 0)) || [[ " $* " == *" ${line%%|*} "* ]]; then verify_row "$line"; fi
    done < <("$tool" list "$here")
}

main() {
    [ "$(id -u)" = 0 ] || die "needs root"
    mkdir -p "$mnt"
    trap cleanup EXIT
    (cd ../.. && go build -o "$tool" ./internal/manifest/cmd)
    case ${1:-} in
    verify) shift; verify "$@"; return ;;
    list) names; return ;;
    esac
    (($#)) || set -- $(names)
    local made
    for made in "$@"; do
        name=$made img=$work/$made.img ext="" opts=""
        "img_$made"
        chattr -R -ia "$work/tree" 2>/dev/null || true
        find "$work" -maxdepth 1 -name '*.img' ! -name '*-journal.img' -delete
    done
}

main "$@"
