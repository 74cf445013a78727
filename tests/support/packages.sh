#!/usr/bin/env bash
# Installing what is missing, with whichever package manager is there. To be sourced.

# Runs a command as root: directly, or through sudo, which may ask for a password only where somebody can answer.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif sudo -n true 2>/dev/null; then
        sudo -n "$@"
    elif command -v sudo >/dev/null && [ -t 0 ] && [ -t 2 ]; then
        sudo "$@"
    else
        printf 'cannot run "%s": this needs root, or sudo without a password\n' "$*" >&2
        return 1
    fi
}

# install_packages MANAGER=PACKAGE…: the first manager that exists installs its package.
install_packages() {
    local choice
    for choice in "$@"; do
        command -v "${choice%%=*}" >/dev/null || continue
        if "install_with_${choice%%=*}" "${choice#*=}" >&2; then return 0; fi
        printf 'could not install the package "%s" with %s\n' "${choice#*=}" "${choice%%=*}" >&2
        return 1
    done
    printf 'no known package manager found\n' >&2
    return 1
}

# Another installation may be under way, even one started by these tests in another clone: wait for it.
install_with_apt-get() {
    local attempt log
    for attempt in $(seq 60); do
        if log=$(apt_get update 2>&1 && apt_get install -y --no-install-recommends "$1" 2>&1); then return 0; fi
        case $log in
        *'Could not get lock'* | *'Unable to acquire the dpkg frontend lock'* | *'Unable to lock'*) sleep 2 ;;
        *) break ;;
        esac
    done
    printf '%s\n' "$log" | tail -n 15
    return 1
}
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
install_with_dnf() { as_root dnf install -y -q "$1"; }
install_with_yum() { as_root yum install -y -q "$1"; }
install_with_zypper() { as_root zypper --non-interactive --quiet install "$1"; }
install_with_apk() { as_root apk add --quiet "$1"; }
install_with_pacman() { as_root pacman -S --noconfirm --needed --quiet "$1"; }
install_with_brew() { brew install --quiet "$1"; }
