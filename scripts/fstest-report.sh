#!/bin/bash
# Puts tables of scripts/fstest.sh beside each other, as Markdown:
#
#   fstest-report.sh "KERNEL-TABLE..." "ASYNCFSD-TABLE..."
#
# Of a test that is in several tables of one side the last one counts. What FUSE rules out is in
# fstest-limits.
set -eu

awk -v kernel="$1" -v ours="$2" -v limits="$(dirname "$0")/fstest-limits" '
function read_table(files, result, seconds, why,    n, list, i, f) {
    n = split(files, list, " ")
    for (i = 1; i <= n; i++) while ((getline <list[i]) > 0) {
        f = $1; result[f] = $2; seconds[f] = $3; names[f] = 1
        $1 = $2 = $3 = ""; sub(/^ +/, ""); gsub(/\|/, "\\|"); why[f] = $0
    }
}
function limit(name,    i) {
    if (name in ruled) return ruled[name]
    if (o[name] == "notrun") for (i = 1; i <= nsaid; i++)
        if (index(owhy[name], said[i])) return saidwhy[i]
    return ""
}
BEGIN {
    while ((getline <limits) > 0) {
        if (/^#/) continue
        at = index($0, ": "); key = substr($0, 1, at - 1); text = substr($0, at + 2)
        if (sub(/^notrun /, "", key)) { said[++nsaid] = key; saidwhy[nsaid] = text }
        else ruled[key] = text
    }
    read_table(kernel, k, ksec, kwhy); read_table(ours, o, osec, owhy)
    n = 0
    for (name in names) {
        for (i = ++n; i > 1 && sorted[i - 1] > name; i--) sorted[i] = sorted[i - 1]
        sorted[i] = name
    }
    rows = ""
    for (i = 1; i <= n; i++) {
        name = sorted[i]; note = kwhy[name]
        if (k[name] == "pass") {
            note = ""; kpass++
            if (o[name] == "pass") both++
            else if (!(name in o)) { unrun++; note = "not run here" }
            else if ((why = limit(name)) != "") { fuse++; note = "FUSE: " why }
            else { bad++; note = owhy[name]; failed = failed " " name }
        } else if (o[name] == "pass") note = "kernel: " kwhy[name]
        rows = rows sprintf("| %s | %s | %s | %s | %s | %s |\n", name, k[name], o[name],
            ksec[name], osec[name], note)
    }
    counted = kpass - fuse - unrun
    printf "%d tests pass on kernel ext4; FUSE rules out %d of them", kpass, fuse
    if (unrun) printf ", %d were not run", unrun
    printf ". Of the remaining %d asyncfsd passes %d: %.1f %%.\n", counted, both, 100 * both / counted
    if (bad) printf "The others:%s.\n", failed
    printf "\n| test | kernel ext4 | asyncfsd | s | s | |\n| --- | --- | --- | --- | --- | --- |\n%s", rows
}'
