#!/usr/bin/env bash
# Puts the program, its manual page, completions and systemd units where a system looks for them.
#
#   install.sh PROGRAM MAN_PAGE      below $DESTDIR$PREFIX (/usr/local)
#   install.sh --remove              away again
set -euo pipefail

units=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../src/units" && pwd)
readonly root=${DESTDIR:-}${PREFIX:-/usr/local} name=campaign-sync
readonly places=(
    "bin/$name" "share/man/man1/$name.1" "share/bash-completion/completions/$name" "share/zsh/site-functions/_$name"
    "share/fish/vendor_completions.d/$name.fish" "lib/systemd/system/$name.service" "lib/systemd/system/$name.timer"
)

if [ "${1:-}" = --remove ]; then
    for place in "${places[@]}"; do rm -f "$root/$place"; done
    exit
fi

program=${1:?usage: install.sh PROGRAM MAN_PAGE} page=${2:?usage: install.sh PROGRAM MAN_PAGE}
install -D -m 0755 "$program" "$root/${places[0]}"
install -D -m 0644 "$page" "$root/${places[1]}"
number=2
for shell in bash zsh fish; do
    "$program" completions "$shell" | install -D -m 0644 /dev/stdin "$root/${places[number]}"
    number=$((number + 1))
done
# systemd wants to know where the program is.
sed "s|^ExecStart=$name|ExecStart=${PREFIX:-/usr/local}/bin/$name|" "$units/$name.service" |
    install -D -m 0644 /dev/stdin "$root/${places[5]}"
install -D -m 0644 "$units/$name.timer" "$root/${places[6]}"
printf 'installed below %s\n' "$root"
