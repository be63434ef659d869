# shellcheck shell=bash disable=SC2154  # the variables are make.sh's
# The test images, one function each, sourced by make.sh. "NAME.img.zst" is made by img_NAME.

# The three generations, with a bit of everything in them.

common() { # ABOUT [finish arguments]
    with common
    finish made=kernel "about=$1: a bit of everything" "${@:2}"
}

img_ext2-1k() { create 4M 1024 "$ext2"; common "ext2, 1k blocks"; }
img_ext2-2k() { create 6M 2048 "$ext2"; common "ext2, 2k blocks"; }
img_ext2-4k() { create 8M 4096 "$ext2"; common "ext2, 4k blocks"; }
img_ext3-1k() { create 6M 1024 "$ext3"; common "ext3, 1k blocks"; }
img_ext3-4k() { create 12M 4096 "$ext3"; common "ext3, 4k blocks"; }
img_ext4-1k() { create 6M 1024 "$ext4"; common "ext4, 1k blocks"; }
img_ext4-2k() { create 8M 2048 "$ext4"; common "ext4, 2k blocks"; }
img_ext4-4k() { create 12M 4096 "$ext4"; common "ext4, 4k blocks"; }

# Variants of the descriptors, the inodes and the checksums.

img_desc32() { create 6M 1024 "$ext4_32"; common "32-byte descriptors, no checksums"; }
img_csum32() { create 6M 1024 "$ext4_32,metadata_csum"; common "checksums in 32-byte descriptors"; }
img_uninit-bg() { create 8M 1024 "$ext4_32,uninit_bg" -g 1024; common "gdt_csum, CRC-16"; }
img_nojournal() { create 4M 1024 "${ext4/has_journal,/}"; common "ext4 without a journal"; }
img_nofiletype() {
    create 4M 1024 "${ext2/filetype,/}"
    common "directory entries without file types"
}
img_inode128() { create 6M 1024 "${ext4/,extra_isize/}" -I 128; common "128-byte inodes"; }
img_inode128-ext2() { create 4M 1024 "$ext2" -I 128; common "ext2 with 128-byte inodes"; }
img_inode512() { create 8M 1024 "$ext4" -I 512; common "512-byte inodes"; }
img_inode1024() { create 8M 1024 "$ext4" -I 1024; common "inodes as large as a block"; }

img_csum-seed() {
    create 6M 1024 "$ext4,metadata_csum_seed"
    with common
    tune2fs -U "$(uuid another)" "$img" >/dev/null
    finish made=kernel "about=checksum seed that is not that of the UUID"
}

# Directories.

hashed() { # ALGORITHM FLAGS ABOUT
    create 4M 1024 "${ext4/has_journal,/}"
    tune2fs -E "hash_alg=$1" "$img" >/dev/null
    dbg "ssv flags $2"
    with names:400:60
    debugfs -R "htree_dump names" "$img" 2>/dev/null | grep -q 'Number of entries (count): [0-9]' ||
        die "no htree"
    finish made=kernel "about=htree, $3"
}

img_hash-legacy() { hashed legacy 1 "legacy hash of signed characters"; }
img_hash-legacy-u() { hashed legacy 2 "legacy hash of unsigned characters"; }
img_hash-md4() { hashed half_md4 1 "half_md4 hash of signed characters"; }
img_hash-md4-u() { hashed half_md4 2 "half_md4 hash of unsigned characters"; }
img_hash-tea() { hashed tea 1 "tea hash of signed characters"; }
img_hash-tea-u() { hashed tea 2 "tea hash of unsigned characters"; }

img_htree2() {
    create 4M 1024 "${ext4/has_journal,/}"
    with names:1500:250
    finish made=kernel "about=htree of two index levels"
}

# Block maps.

img_indirect-1k() {
    create 2M 1024 "$ext2"
    with indirect
    finish made=kernel "about=single, double and triple indirect blocks, 1k"
}
img_indirect-4k() {
    create 4M 4096 "$ext2"
    with indirect
    finish made=kernel "about=single, double and triple indirect blocks, 4k"
}
img_extents() {
    create 5M 1024 "${ext4/has_journal,/}"
    with extents:1200
    finish made=kernel "about=extent trees of several levels, unwritten extents"
}
img_extents-4k() {
    create 8M 4096 "${ext4/has_journal,/}"
    with extents:700
    finish made=kernel "about=extent trees, unwritten extents, 4k blocks"
}
img_huge-offsets() {
    create 2M 4096 "${ext4/has_journal,/}"
    with huge
    finish made=kernel "about=sparse files up to the last logical block"
}
img_huge-offsets-1k() {
    create 2M 1024 "${ext4/has_journal,/}"
    with huge
    finish made=kernel "about=sparse files up to the last logical block, 1k"
}

# Inline data and extended attributes.

img_inline() {
    create 3M 1024 "${ext4/has_journal,/},inline_data"
    with inline:128
    finish made=kernel "about=inline data and directories in 256-byte inodes"
}
img_inline-1k() {
    create 4M 4096 "${ext4/has_journal,/},inline_data" -I 1024
    with inline:896
    finish made=kernel "about=inline data and directories in 1024-byte inodes"
}
img_inline-common() {
    create 12M 4096 "$ext4,inline_data"
    common "inline data"
}
img_ea-inode() {
    create 4M 1024 "${ext4/has_journal,/},ea_inode"
    with xattrs eainode
    finish made=kernel "about=attribute values in inodes of their own"
}

# Layouts of the disk.

img_minimal() {
    create 64K 1024 ext_attr,filetype -N 16
    dbg "mkdir d" "symlink d/l t"
    finish made=debugfs "about=the smallest filesystem: 64 blocks, 16 inodes"
}
img_old-ext2() {
    create 4M 1024 none -I 128 -r 0
    with plain
    finish made=kernel "about=revision 0: no feature at all"
}
img_bigalloc() {
    create 12M 1024 "$ext4,bigalloc" -C 16384
    with common extents:100
    finish made=kernel "about=bigalloc, clusters of 16 blocks"
}
img_bigalloc-4k() {
    create 48M 4096 "$ext4,bigalloc" -C 65536
    with common extents:100
    finish made=kernel "about=bigalloc, 4k blocks in 64k clusters"
}
img_meta-bg() {
    create 24M 1024 "${ext4/resize_inode,/},meta_bg" -g 512 -N 768
    common "meta_bg, several meta groups of 64-byte descriptors"
}
img_meta-bg32() {
    create 24M 1024 "${ext2/resize_inode,/},meta_bg" -g 256 -N 768
    common "meta_bg, 32-byte descriptors"
}
img_flex-bg() {
    create 16M 1024 "$ext4" -g 1024 -G 8 -N 512
    common "flex_bg, groups of eight"
}
img_no-flex-bg() {
    create 16M 1024 "${ext4/flex_bg,/}" -g 1024 -N 512
    common "metadata in every group"
}
img_many-groups() {
    create 64M 1024 "${ext4/flex_bg,/}" -g 256 -N 2048
    common "256 groups"
}
img_no-sparse-super() {
    create 16M 1024 "${ext4/resize_inode,dir_index,filetype,sparse_super/dir_index,filetype}" -g 1024 -N 512
    common "superblock copies in every group"
}
img_sparse-super2() {
    create 16M 1024 "${ext4/sparse_super,resize_inode/sparse_super2}" -g 1024 -N 512
    common "sparse_super2: two superblock copies"
}
img_uninit-garbage() {
    local features=${ext2},uninit_bg
    yes "Whatever was on the disk before mke2fs. " | head -c 8M >"$img" || true
    mke2fs -q -F -b 1024 -O "none,$features" -U "$(uuid "$name")" -g 1024 -N 1024 \
        -E "hash_seed=$(uuid seed),lazy_itable_init=1,nodiscard" "$img" >"$work/log" 2>&1
    opts=noinit_itable
    with plain
    dumpe2fs "$img" 2>/dev/null | grep -q 'INODE_UNINIT, BLOCK_UNINIT\]' || die "no such group"
    finish made=kernel "about=uninitialised groups full of garbage"
}

# Block sizes beyond the page, which the kernel that made the manifests cannot mount.

large() { # BLOCKSIZE SIZE FEATURES
    create "$2" "$1" "$3" -d "$tree"
    finish made=mke2fs "about=$1-byte blocks" "tree=$tree" \
        "kernel_cannot=block size above the page size"
}
img_block-8k() { source_tree source; large 8192 16M "${ext4/has_journal,/}"; }
img_block-16k() { source_tree source; large 16384 32M "${ext4/has_journal,/}"; }
img_block-32k() { source_tree source; large 32768 48M "${ext4/has_journal,/}"; }
img_block-64k() { source_tree source; large 65536 64M "${ext4/has_journal,/}"; }
img_block-64k-ext2() { source_tree source; large 65536 64M "$ext2"; }
img_block-64k-names() { source_tree names:3000:200; large 65536 16M "${ext4/has_journal,/}"; }

# Written by mke2fs -d and debugfs.

img_mke2fs-d() {
    source_tree source
    create 8M 1024 "$ext4" -d "$tree"
    finish made=mke2fs "about=a tree taken over by mke2fs -d"
}
img_mke2fs-d-ext2() {
    source_tree source
    create 8M 4096 "$ext2" -d "$tree"
    finish made=mke2fs "about=a tree taken over by mke2fs -d, ext2"
}
img_debugfs() {
    create 4M 1024 "$ext4"
    seq 1 3000 >"$work/file"
    head -c 300 "$work/file" >"$work/value"
    dbg "mkdir dir" "mkdir dir/sub" "write $work/file dir/file" "ln dir/file dir/sub/link" \
        "sif dir/file links_count 2" "symlink dir/fast target" \
        "symlink slow $(printf 'x%.0s' {1..100})" "mknod fifo p" "mknod null c 1 3" \
        "mknod disk b 259 300" "ea_set dir/file user.short value" \
        "ea_set -f $work/value dir/file user.long" "ea_set dir user.dir 1" \
        "sif dir/file mode 0104711" "sif dir/file uid 70000" "sif dir/file gid 4000000000" \
        "sif dir/file mtime @0x80000000" "sif dir/file generation 0xfedcba98" \
        "punch dir/file 3 5" "fallocate dir/file 20 30"
    finish made=debugfs "about=a tree made by debugfs alone"
}

# Directories, further.

img_htree-ext3() {
    create 4M 1024 "$ext3"
    with names:600:60
    finish made=kernel "about=htree without checksums"
}
img_htree-off() {
    create 4M 1024 "$ext2"
    with names:600:60
    dbg "feature -dir_index"
    finish made=kernel "about=indexed directory on a filesystem without dir_index" nofsck=1
}
img_htree-2k() {
    create 6M 2048 "${ext4/has_journal,/}"
    with names:2000:30
    finish made=kernel "about=htree of 2k blocks"
}
img_large-dir() {
    create 48M 1024 "${ext4/has_journal,/},large_dir"
    with names:24000:250
    debugfs -R "htree_dump names" "$img" 2>/dev/null | grep -q 'Indirect levels: 2' ||
        die "not three levels"
    finish made=kernel "about=large_dir: htree of three index levels"
}
img_many-files() {
    create 8M 1024 "$ext4" -N 1400
    with many:1200
    finish made=kernel "about=1200 files in directories of 100"
}
img_dir-nlink() {
    create 2M 1024 "${ext4/has_journal,/}"
    with plain
    dbg "sif dir links_count 1"
    finish made=patched "about=directory whose subdirectories are too many to count" nofsck=1
}

# Block maps, further.

img_extents-depth5() {
    create 4M 1024 "${ext4/has_journal,/}"
    with plain
    dbg "eo file" root split_node root split_node root split_node root split_node root \
        split_node ec
    debugfs -R "ex file" "$img" 2>/dev/null | grep -q '5/ 5' || die "not deep enough"
    finish made=debugfs "about=extent tree of the greatest depth" nofsck=1
}
img_huge-file() {
    create 4M 4096 "${ext4/has_journal,/}"
    with plain
    # 20000 bytes are 5 blocks; with the flag i_blocks counts those, not sectors.
    dbg "sif file flags 0xc0000" "sif file blocks 5"
    finish made=patched "about=file whose i_blocks is in units of blocks"
}
img_shared-blocks() {
    create 2M 1024 "$ext2"
    with plain
    dbg "copy_inode file dir/sub/file" "sif dir/sub/file generation 7" "feature FEATURE_R14"
    finish made=patched "about=files that share blocks" nofsck=1 \
        "read_only=shared_blocks"
}

# Projects, quota, casefold, verity, encryption.

img_quota() {
    ext=quotatype=usrquota:grpquota:prjquota
    create 8M 1024 "$ext4,quota,project" -I 256
    dbg "mkdir proj" "write $here/mke2fs.conf proj/a" "write $here/mke2fs.conf b" \
        "sif proj projid 42" "sif proj flags 0x20080000" "sif proj/a projid 42" \
        "sif b projid 4294967295" "sif b uid 1000"
    fix "$img"
    finish made=debugfs "about=project ids and quota inodes"
}
img_verity() {
    create 8M 4096 "${ext4/has_journal,/}"
    kmount
    seq 1 30000 >"$mnt/verity"
    seq 1 1000 >"$mnt/plain"
    local size
    size=$(stat -c %s "$mnt/verity")
    "$tool" verity "$mnt/verity"
    umount "$mnt"
    dbg "feature verity" "sif verity size $size" "sif verity flags 0x180000"
    finish made=patched "about=verity file, read as data" \
        "twin=sif verity flags 0x80000" "kernel_cannot=built without verity"
}

folded_lookups="fold/README.txt>fold/readme.TXT,fold/GRÜN>fold/Grün,fold/STRASSE>fold/straße"
folded_lookups+=",fold/sub/iNSIDE>fold/Sub/Inside,big/name-0003>big/Name-0003,fold/README.tx>"
folded_lookups+=",fold/nothing>,big/ÄRGER-0001>big/Ärger-0001,fold/ΣΊΣΥΦΟΣ>fold/Σίσυφος"
folded_lookups+=",fold/FILE>fold/ﬁle,fold/İZMIR>fold/İzmir,big/δΈΛΤΑ-0002>big/Δέλτα-0002"
folded_lookups+=",fold/ÉTÉ>fold/e"$'\xcc\x81'"té,fold/SOFT>fold/so"$'\xc2\xad'"ft"
folded_lookups+=",fold/"$'\xe1\x84\x80\xe1\x85\xa1'">fold/가"
# What is not UTF-8 is compared as it stands.
folded_lookups+=',fold/BAD-\xff>'

casefolded() { # SIZE BLOCKSIZE FEATURES NAMES ABOUT
    source_tree "folded:$4"
    ext=encoding=utf8
    create "$1" "$2" "$3,casefold" -d "$tree"
    dbg "sif fold flags 0x40080000" "sif fold/Sub flags 0x40080000" "sif big flags 0x40080000"
    e2fsck -fyD "$img" >"$work/log" 2>&1 || [ $? = 1 ] || die "e2fsck -D"
    finish made=mke2fs "about=$5" "lookups=$folded_lookups" \
        "kernel_cannot=built without Unicode" \
        "twin=feature -casefold;sif fold flags 0x80000;sif fold/Sub flags 0x80000;sif big flags 0x80000"
}
img_casefold() {
    casefolded 4M 1024 "${ext4_32/has_journal,/}" 300 "casefold, with an htree"
}
img_casefold-csum() {
    casefolded 4M 4096 "${ext4/has_journal,/}" 60 "casefold, with checksums"
}

encrypted() { # SIZE BLOCKSIZE FEATURES NAMES FLAGS ABOUT
    create "$1" "$2" "$3,encrypt" -I 256
    kmount
    mkdir "$mnt/locked"
    "$tool" encrypt "$mnt" "$mnt/locked" "$5"
    "$tool" fill secret "$mnt" "$4"
    umount "$mnt"
    finish made=kernel "about=$6"
}
img_encrypt() { encrypted 4M 1024 "$ext4" 150 0 "encrypted directories, indexed"; }
img_encrypt-pad32() {
    encrypted 12M 4096 "$ext4,stable_inodes" 20 3 "encrypted directories, stable_inodes, padding 32"
}
img_encrypt-ext3() { encrypted 4M 1024 "$ext3" 100 1 "encrypted directories with block maps"; }
img_encrypt-inline() { encrypted 4M 1024 "$ext4,inline_data" 10 0 "encryption and inline data"; }
img_encrypt-casefold() { # each name in "locked" has its hash behind it
    create 4M 4096 "${ext4_32/has_journal,/},encrypt"
    tune2fs -E hash_alg=legacy "$img" >/dev/null
    dbg "ssv flags 2"
    kmount
    mkdir "$mnt/locked"
    "$tool" encrypt "$mnt" "$mnt/locked" 0
    "$tool" fill secret "$mnt" 3
    umount "$mnt"
    cp "$img" "$work/twin"
    block locked 0
    "$tool" addhashes "$img" "$at" 4096
    dbg "feature casefold" "ssv encoding 1" "sif locked flags 0x40080800"
    finish made=patched "about=an encrypted directory that folds case" "twinfile=$work/twin" \
        "kernel_cannot=built without Unicode"
}

# Journals that have to be replayed.

dirty() { finish made=kernel dirty=1 "about=journal: $1" "${@:2}"; }

img_log-plain() { create 6M 1024 "$ext4_32"; crash 1 common basic; dirty "no checksums"; }
img_log-v1() {
    create 6M 1024 "$ext4_32"
    opts=journal_checksum
    crash 1 common basic
    dirty "checksums version 1"
}
img_log-async() {
    create 6M 1024 "$ext4_32"
    opts=journal_async_commit,data=writeback
    crash 1 common basic
    dirty "asynchronous commit"
}
img_log-v3() { create 6M 1024 "$ext4"; crash 1 common basic; dirty "checksums version 3, 64-bit"; }
img_log-v3-32bit() {
    create 6M 1024 "$ext4_32,metadata_csum"
    crash 1 common basic
    dirty "checksums version 3, 32-bit"
}
img_log-64bit() {
    create 6M 1024 "$ext4_32,64bit"
    crash 1 common basic
    dirty "64-bit tags, no checksums"
}
img_log-ext3() { create 6M 1024 "$ext3"; crash 1 common basic; dirty "ext3"; }
img_log-4k() { create 16M 4096 "$ext4"; crash 1 common basic; dirty "4k blocks"; }
img_log-noflush() {
    create 6M 1024 "$ext4"
    crash 2 common basic plain
    dirty "the last transaction was never committed"
}
img_log-revoke() {
    create 4M 1024 "$ext4" -N 800
    crash 1 revoke
    revoked
    dirty "revoked blocks"
}
img_log-revoke32() {
    create 4M 1024 "$ext3" -N 800
    crash 1 revoke
    revoked
    dirty "revoked blocks, ext3"
}
revoked() { # some revoked block must belong to the file that took its place, and be in the log
    local block
    debugfs -R "logdump -a" "$img" 2>/dev/null >"$work/out"
    for block in $(sed -n 's/.*Revoke FS block //p' "$work/out"); do
        if grep -q "FS block $block logged" "$work/out" &&
            debugfs -R "icheck $block" "$img" 2>/dev/null | grep -q "^$block.[0-9]"; then return; fi
    done
    die "no revoked block is in use"
}
img_log-data() {
    create 6M 1024 "$ext4"
    opts=data=journal
    crash 1 plain escape basic
    escaped
    dirty "data=journal, escaped blocks"
}
img_log-data32() {
    create 6M 1024 "$ext3"
    opts=data=journal
    crash 1 plain escape basic
    escaped
    dirty "data=journal, escaped blocks, ext3"
}
escaped() { # flag 1 of a tag
    debugfs -R "logdump -a" "$img" 2>/dev/null | grep -q 'flags 0x[0-9a-f]*[13579bdf])' ||
        die "no escaped block"
}
img_log-wrap() {
    create 4M 1024 "$ext4"
    crash 1 plain wrap:330
    wrapped
    dirty "the log goes round the end of the journal"
}
wrapped() { # the log must have a block before its start
    debugfs -R logdump "$img" 2>/dev/null >"$work/out"
    awk '/^Journal starts at block/ { start = $5 + 0 }
        /at block [0-9]+/ { n = $NF + 0; if (n < start) found = 1 }
        END { exit !found }' "$work/out" || die "the log does not go round"
}
img_log-orphans() {
    create 4M 1024 "$ext4"
    crash 1 plain orphans:1
    dirty "orphans in the list of the superblock"
}
img_log-orphan-file() {
    create 4M 1024 "$ext4,orphan_file"
    crash 1 plain orphans:1
    dirty "orphans in the orphan file"
}
img_orphan-file() { create 6M 1024 "$ext4,orphan_file"; common "orphan_file, empty"; }
img_log-fast() {
    create 12M 1024 "$ext4,fast_commit" -J size=2,fast_commit_size=512
    with common
    crash 2 fast
    fast_blocks
    dirty "fast commits" ignore=mtime,ctime # of directories: the time of the replay
}
img_log-fast-32() {
    create 12M 1024 "$ext4_32,fast_commit" -J size=2,fast_commit_size=512
    with common
    crash 2 fast
    fast_blocks
    dirty "fast commits, no checksums" ignore=mtime,ctime
}
img_log-fast-dir() {
    create 8M 1024 "$ext4,fast_commit" -J size=2,fast_commit_size=512
    with plain
    crash 2 fastdir
    fast_blocks
    dirty "fast commit of a directory" nofsck=1 ignore=nlink,blocks,mtime,ctime
}
fast_blocks() {
    debugfs -R "logdump -a" "$img" 2>/dev/null >"$work/out"
    grep -q '^tag CREAT' "$work/out" || die "no fast commits"
}

by_debugfs() { # VERSION ABOUT FEATURES: a log written by debugfs
    create 4M 1024 "$3"
    with plain
    local first second
    first=$(debugfs -R "bmap file 2" "$img" 2>/dev/null)
    second=$(debugfs -R "bmap file 5" "$img" 2>/dev/null)
    { printf '\xc0\x3b\x39\x98'; seq 1 300; } | head -c 1024 >"$work/one" || true
    seq 300 900 | head -c 2048 >"$work/two" || true
    local commands=("jo $1" "jw -b $first,$second $work/two" "jw -b $first $work/one")
    # NB: the kernel refuses revoke blocks of debugfs in a log with checksums version 1.
    [[ $1 == *1 ]] || commands+=("jw -r $second")
    dbg "${commands[@]}" jc
    finish made=debugfs dirty=1 "about=journal by debugfs: $2"
}
img_log-debugfs() { by_debugfs "" "no checksums" "$ext3"; }
img_log-v2() { by_debugfs "-c -v 2" "checksums version 2" "$ext4"; }
img_log-v2-32() {
    by_debugfs "-c -v 2" "checksums version 2, 32-bit" "$ext4_32,metadata_csum"
}
img_log-v1-debugfs() { by_debugfs "-c -v 1" "checksums version 1" "$ext4_32"; }
img_log-v3-debugfs() { by_debugfs "-c -v 3" "checksums version 3" "$ext4"; }

img_external() {
    local main=$img
    img=$work/external-journal.img
    truncate -s 1100K "$img"
    mke2fs -q -F -b 1024 -O journal_dev -U "$(uuid external-journal)" "$img" >/dev/null
    attach "$img"
    img=$main
    local device=$dev
    create 4M 1024 "$ext4" -J "device=$device"
    opts=journal_path=$device
    crash 1 common basic
    detach "$device"
    finish made=kernel dirty=1 journal=external-journal "about=journal on another device"
    name=external-journal img=$work/external-journal.img
    finish made=mke2fs "about=the journal of image external" nofsck=1 \
        "mount_error=a journal device"
}

img_mmp() {
    ext=mmp_update_interval=1
    create 4M 1024 "${ext4/has_journal,/},mmp"
    dbg "mkdir dir" "write $here/mke2fs.conf dir/file"
    finish made=debugfs "about=multiple mount protection, not mounted"
}

# Filesystems inside something.

within() { # OFFSET: puts the filesystem img_… made in $work/inner.img at OFFSET of $img
    dd if="$work/inner.img" of="$img" bs=64k seek="$1" oflag=seek_bytes conv=notrunc status=none
}
inner() { # makes $work/inner.img
    local outer=$img
    img=$work/inner.img
    create 2M 1024 "${ext4/has_journal,/}"
    with plain
    img=$outer
}

img_offset() {
    inner
    yes "not the filesystem" | head -c 2M >"$img" || true
    truncate -s 4M "$img"
    within 1050624
    finish made=kernel offset=1050624 inner="$work/inner.img" \
        "about=a filesystem at byte 1050624 of a file"
}
img_mbr() {
    inner
    truncate -s 4M "$img"
    "$tool" mbr "$img" 1,0x0c,64,512 2,0x83,2048,4096
    within $((2048 * 512))
    finish made=kernel offset=$((2048 * 512)) partition=2 inner="$work/inner.img" \
        "about=primary partition of an MBR"
}
img_mbr-logical() {
    inner
    truncate -s 6M "$img"
    "$tool" mbr "$img" 1,0x0c,64,512 5,0x83,1024,512 6,0x83,2048,4096 7,0x83,6200,512
    within $((2048 * 512))
    finish made=kernel offset=$((2048 * 512)) partition=6 inner="$work/inner.img" \
        "about=logical partition of an MBR"
}
img_gpt() {
    inner
    truncate -s 4M "$img"
    "$tool" gpt "$img" 64,256 512,64 2048,4096
    within $((2048 * 512))
    finish made=kernel offset=$((2048 * 512)) partition=3 inner="$work/inner.img" \
        "about=partition of a GPT"
}

# Superblocks that are not right. base is what is then damaged; a field is named as in debugfs.

base() { # [FEATURES]
    create 2M 1024 "${1:-${ext4/has_journal,/}}"
    with plain
}
super() { # OFFSET HEX… ABOUT=MOUNT_ERROR: changes the superblock, checksum kept right, and refuses
    base
    poke $((1024 + $1)) "${@:2:$#-2}"
    "$tool" supercsum "$img"
    finish made=patched "about=${*: -1}" "mount_error=${*: -1}"
}

img_bad-empty() {
    truncate -s 0 "$img"
    finish made=patched "about=an empty file" "mount_error=too short"
}
img_bad-short() {
    base
    truncate -s 1500 "$img"
    finish made=patched "about=a file that ends within the superblock" "mount_error=too short"
}
img_bad-truncated() {
    base
    truncate -s 1M "$img"
    finish made=patched "about=half a filesystem" \
        "mount_error=the filesystem is larger than the image"
}
img_bad-garbage() {
    seq 1 60000 | gzip -9n | head -c 65536 >"$img" || true
    finish made=patched "about=random bytes" "mount_error=no magic number"
}
img_bad-zeroed() {
    create 16M 1024 "${ext4/has_journal,/}" -g 8192
    with plain
    poke 1024 '00*1024'
    finish made=patched "about=zeroed superblock, with the copies intact" \
        "mount_error=no magic number" sb=8193
}
img_bad-super-csum() {
    base
    poke 1144 58
    finish made=patched "about=wrong checksum of the superblock" "mount_error=superblock checksum"
}
img_bad-incompat() {
    super 0x60 c2 02 00 80 "unknown incompatible feature, bit 31"
}
img_bad-compression() { super 0x60 c3 02 00 00 "incompatible feature compression"; }
img_bad-dirdata() { super 0x60 c2 12 00 00 "incompatible feature dirdata"; }
img_bad-block-size() { super 0x18 1e 00 00 00 "impossible block size"; }
img_bad-blocks() { super 0x04 00 00 00 ff "impossible count of blocks"; }
img_bad-groups() { super 0x20 00 00 00 00 "impossible count of blocks in a group"; }
img_bad-inodes-group() { super 0x28 00 00 00 00 "impossible count of inodes in a group"; }
img_bad-inodes() { super 0x00 ff ff ff ff "impossible count of inodes"; }
img_bad-inode-size() { super 0x58 65 00 "impossible size of inodes"; }
img_bad-inode-huge() { super 0x58 00 20 "inodes larger than a block"; }
img_bad-desc-size() { super 0xfe 07 00 "impossible size of descriptors"; }
img_bad-first-block() { super 0x14 ff ff 00 00 "impossible first block"; }
img_bad-csum-type() { super 0x175 09 "unknown checksum algorithm"; }
img_bad-cluster() { super 0x1c 07 00 00 00 "cluster size without bigalloc"; }
img_bad-itable() {
    base "${ext4_32/has_journal,/}"
    poke $((2048 + 8)) ff ff ff 7f
    finish made=patched "about=inode table outside of the filesystem" \
        "mount_error=inode table outside of the filesystem"
}
img_bad-root() {
    base "${ext4_32/has_journal,/}"
    inode .
    poke "$at" a4 81
    finish made=patched "about=the root is a file" "mount_error=the root is not a directory"
}
img_bad-root-free() {
    base "${ext4_32/has_journal,/}"
    inode .
    poke "$at" '00*128'
    finish made=patched "about=the root inode is empty" "mount_error=the root is not a directory"
}
img_bad-journal() {
    create 4M 1024 "$ext4"
    with plain
    block '<8>' 0
    poke "$at" 00 00 00 00
    finish made=patched "about=journal without a magic number" "mount_error=journal superblock"
}
img_bad-journal-inode() {
    create 4M 1024 "$ext4_32"
    with plain
    inode '<8>'
    poke "$at" '00*128'
    finish made=patched "about=no journal inode" "mount_error=journal inode"
}

# Readable, but not to be written to.

img_ro-unknown() {
    base
    poke $((1024 + 0x67)) 80
    "$tool" supercsum "$img"
    finish made=patched "about=unknown read-only feature, bit 31" nofsck=1 \
        "read_only=unknown feature"
}
img_ro-revision() {
    base
    poke $((1024 + 0x4c)) 09
    "$tool" supercsum "$img"
    finish made=patched "about=revision 9" nofsck=1 "read_only=unknown revision"
}
img_ro-desc-csum() {
    base
    poke $((2048 + 0x1e)) aa bb
    finish made=patched "about=wrong checksum of a group descriptor" nofsck=1 \
        "read_only=group descriptor checksum" "corrupt=group descriptor checksum"
}
img_ro-readonly() {
    base
    dbg "feature read-only"
    finish made=patched "about=feature read-only" "read_only=read-only"
}
img_compat-unknown() {
    base
    poke $((1024 + 0x5f)) 80
    "$tool" supercsum "$img"
    finish made=patched "about=unknown compatible feature, which does not matter" nofsck=1
}
img_state-error() {
    base
    dbg "ssv state 2" "ssv error_count 3" "ssv last_error_time 1700000000"
    finish made=patched "about=errors were noted" nofsck=1
}

# Damage inside. The images without checksums show that everything is checked for itself.

nocsum=${ext4_32/has_journal,/}
damaged() { # PATHS ABOUT
    finish made=patched "damaged=$1" "corrupt=$2" "about=damaged: $2"
}
img_hurt-inode-csum() {
    base
    inode file
    poke $((at + 0x19)) 5a
    damaged file "checksum of an inode"
}
img_hurt-dir-csum() {
    base
    block dir/sub 0
    poke $((at + 0x208)) 5a
    damaged dir/sub "checksum of a directory block"
}
img_hurt-dir-reclen() {
    base "$nocsum"
    block dir/sub 0
    poke $((at + 12 + 4)) 03 00
    damaged dir/sub "length of a directory entry"
}
img_hurt-dir-reclen0() {
    base "$nocsum"
    block dir/sub 0
    poke $((at + 12 + 4)) 00 00
    damaged dir/sub "directory entry without length"
}
img_hurt-dir-name() {
    base "$nocsum"
    block dir/sub 0
    poke $((at + 24 + 6)) ff
    poke $((at + 24 + 4)) 0c 00
    damaged dir/sub "name longer than its directory entry"
}
img_hurt-dir-ino() {
    base "$nocsum"
    block dir/sub 0
    poke $((at + 24)) ff ff ff 7f
    damaged dir/sub "inode number out of range"
}
img_hurt-dir-free() {
    base "$nocsum"
    dbg "freei dir/sub/file" "clri dir/sub/file"
    damaged dir/sub/file "entry of a free inode"
}
img_hurt-dir-loop() {
    base "$nocsum"
    local inode
    inode=$(debugfs -R "stat dir" "$img" 2>/dev/null | sed -n 's/^Inode: *\([0-9]*\).*/\1/p')
    dbg "link <$inode> dir/sub/loop"
    damaged dir/sub/loop "directory within itself"
}
img_hurt-htree-csum() {
    create 2M 1024 "${ext4/has_journal,/}"
    with names:200:60
    block names 0
    poke $((at + 0x30)) 5a
    damaged names "checksum of an htree's root"
}
img_hurt-htree() {
    create 2M 1024 "$nocsum"
    with names:200:60
    block names 0
    poke $((at + 0x20)) ff ff ff 7f
    damaged names "limit and count of an htree's root"
}
img_hurt-htree-block() {
    create 2M 1024 "$nocsum"
    with names:200:60
    block names 0
    poke $((at + 0x2c)) ff ff ff 00
    damaged names "block number in an htree's root"
}
img_hurt-extent-magic() {
    base "$nocsum"
    inode file
    poke $((at + 0x28)) 00 00
    damaged file "magic number of an extent header"
}
img_hurt-extent-count() {
    base "$nocsum"
    inode file
    poke $((at + 0x2a)) 05 00
    damaged file "count of an extent header"
}
img_hurt-extent-block() {
    base "$nocsum"
    inode file
    poke $((at + 0x28 + 12 + 8)) ff ff ff 7f
    damaged file "extent outside of the filesystem"
}
img_hurt-extent-loop() {
    create 2M 1024 "$nocsum"
    with extents:20
    inode fragmented
    local leaf=$at
    leaf=$(od -An -tu4 -j $((at + 0x28 + 16)) -N 4 "$img" | tr -d ' ')
    # The leaf becomes an index node that leads to itself.
    poke $((leaf * 1024 + 6)) 01 00
    poke $((leaf * 1024 + 2)) 01 00
    poke $((leaf * 1024 + 12)) 00 00 00 00 "$(printf '%02x' $((leaf & 255)))" \
        "$(printf '%02x' $((leaf >> 8)))" 00 00 00 00
    damaged fragmented "extent tree that leads into itself"
}
img_hurt-extent-csum() {
    create 2M 1024 "${ext4/has_journal,/}"
    with extents:20
    inode fragmented
    local leaf
    leaf=$(od -An -tu4 -j $((at + 0x28 + 16)) -N 4 "$img" | tr -d ' ')
    poke $((leaf * 1024 + 500)) 5a
    damaged fragmented "checksum of an extent block"
}
img_hurt-indirect() {
    base "$ext2"
    inode file
    poke $((at + 0x28 + 4 * 4)) ff ff ff 7f
    damaged file "block outside of the filesystem"
}
img_hurt-indirect-block() {
    base "$ext2"
    inode file
    poke $((at + 0x28 + 4 * 12)) ff ff ff 7f
    damaged file "indirect block outside of the filesystem"
}
img_hurt-indirect-loop() {
    create 2M 1024 "$ext2"
    with indirect
    inode mapped
    local double
    double=$(od -An -tu4 -j $((at + 0x28 + 4 * 13)) -N 4 "$img" | tr -d ' ')
    poke $((double * 1024)) "$(printf '%02x' $((double & 255)))" "$(printf '%02x' $((double >> 8)))"
    damaged mapped "indirect block that leads to itself"
}
img_hurt-size() {
    base "$nocsum"
    inode file
    poke $((at + 0x6c)) ff ff ff 7f
    damaged file "impossible size"
}
img_hurt-xattr-csum() {
    create 2M 1024 "${ext4/has_journal,/}"
    with xattrs
    xattr_block xattrs/block
    poke $((at + 1000)) 5a
    damaged xattrs/block "checksum of an attribute block"
}
img_hurt-xattr-magic() {
    create 2M 1024 "$nocsum"
    with xattrs
    xattr_block xattrs/block
    poke $((at + 3)) 00
    damaged xattrs/block "magic number of an attribute block"
}
img_hurt-xattr-value() {
    create 2M 1024 "$nocsum"
    with xattrs
    xattr_block xattrs/block
    poke $((at + 0x20 + 2)) ff ff
    damaged xattrs/block "place of an attribute's value"
}
img_hurt-xattr-inode() {
    create 2M 1024 "$nocsum"
    with xattrs
    inode xattrs/small
    poke $((at + 128 + 32 + 4 + 2)) ff ff
    damaged xattrs/small "place of a value within the inode"
}
xattr_block() { # PATH: sets at to the offset of its attribute block
    at=$(debugfs -R "stat $1" "$img" 2>/dev/null | sed -n 's/^File ACL: *//p')
    [[ $at && $at != 0 ]] || die "no attribute block"
    at=$((at * $(blocksize "$img")))
}
img_hurt-symlink() {
    base "$nocsum"
    inode link
    poke $((at + 4)) ff 00 00 00
    damaged link "fast symbolic link of 255 bytes"
}
img_hurt-isize() {
    base "$nocsum"
    inode file
    poke $((at + 128)) ff 7f
    damaged file "extra fields beyond the inode"
}
img_hurt-inline() {
    create 2M 1024 "${nocsum},inline_data"
    with inline:128
    inode inline/0100
    poke $((at + 128 + 32)) 00 00 00 00
    damaged inline/0100 "inline data without its attribute"
}
img_hurt-log() {
    create 4M 1024 "$ext4"
    crash 1 plain basic
    # The last transaction loses its commit block, as if the power had failed.
    local last
    last=$(debugfs -R logdump "$img" 2>/dev/null |
        sed -n 's/.*(commit block) at block //p' | tail -1)
    block '<8>' "$last"
    poke "$at" 00 00 00 00
    dirty "the last commit block is missing"
}
