#!/usr/bin/env bash
# Checks that the stated Rust version (rust-version in Cargo.toml) is enough. Installs that toolchain where rustup can; where it
# cannot, this is said and is no failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

skip() {
    printf 'Rust %s: not checked: %s\n' "$version" "$*" >&2
    exit 0
}

version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || { printf 'rust_version.sh: Cargo.toml states no rust-version\n' >&2; exit 1; }
command -v rustup >/dev/null || skip 'no rustup is here to install it'
if ! rustup run "$version" rustc --version >/dev/null 2>&1; then
    # Networks that answer nothing are not waited for.
    RUSTUP_MAX_RETRIES=1 timeout --kill-after=10 300 rustup toolchain install "$version" --profile minimal --no-self-update \
        >/dev/null </dev/null || skip 'rustup cannot install it'
fi
# A folder of its own: two compilers in one would throw away each other's work.
target_dir=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
RUSTUP_TOOLCHAIN=$version cargo check --locked --quiet -p campaign-sync --bins --target-dir "$target_dir/rust-$version"
printf 'Rust %s builds it\n' "$version"
