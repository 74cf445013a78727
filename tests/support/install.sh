#!/usr/bin/env bash
# Puts the program, its manual page, completions, systemd units and Grafana dashboard where a system looks for them.
#
#   install.sh PROGRAM MAN_PAGE [RUNNABLE]   below $DESTDIR$PREFIX (/usr/local); RUNNABLE: the same program for this machine
#   install.sh --remove                      away again
set -euo pipefail

units=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../src/units" && pwd)
readonly prefix=${PREFIX:-/usr/local} name=campaign-sync
readonly root=${DESTDIR:-}$prefix
readonly completions=(
    "bash share/bash-completion/completions/$name" "zsh share/zsh/site-functions/_$name"
    "fish share/fish/vendor_completions.d/$name.fish"
)
readonly services=("$name" "$name-accounts")

if [ "${1:-}" = --remove ]; then
    rm -f "$root/bin/$name" "$root/share/man/man1/$name.1" "$root/lib/sysusers.d/$name.conf" "$root/share/$name/grafana-dashboard.json"
    for completion in "${completions[@]}"; do rm -f "$root/${completion#* }"; done
    for service in "${services[@]}"; do rm -f "$root/lib/systemd/system/$service".{service,timer}; done
    exit
fi

program=${1:?usage: install.sh PROGRAM MAN_PAGE} page=${2:?usage: install.sh PROGRAM MAN_PAGE}
install -D -m 0755 "$program" "$root/bin/$name"
install -D -m 0644 "$page" "$root/share/man/man1/$name.1"
for completion in "${completions[@]}"; do
    "${3:-$program}" completions "${completion%% *}" | install -D -m 0644 /dev/stdin "$root/${completion#* }"
done
for service in "${services[@]}"; do
    # systemd wants to know where the program is.
    sed "s|^ExecStart=$name |ExecStart=$prefix/bin/$name |" "$units/$service.service" |
        install -D -m 0644 /dev/stdin "$root/lib/systemd/system/$service.service"
    install -D -m 0644 "$units/$service.timer" "$root/lib/systemd/system/$service.timer"
done
install -D -m 0644 "$units/$name.sysusers" "$root/lib/sysusers.d/$name.conf"
install -D -m 0644 "$units/grafana-dashboard.json" "$root/share/$name/grafana-dashboard.json"
printf 'installed below %s\n' "$root"
