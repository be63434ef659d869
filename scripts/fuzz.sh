#!/bin/sh
# Runs every fuzzer of the tree for FUZZTIME (default 30s), one after the other.
set -eu
go=${GO:-go}
for package in $($go list ./...); do
    for name in $($go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
        echo "fuzz: $package $name"
        $go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" "$package"
    done
done
