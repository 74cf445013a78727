#!/usr/bin/env bash
# Installing what is missing, with whichever package manager is there. To be sourced.

as_root=()

# Sets the prefix `as_root`: nothing, or sudo, which may ask for a password only where somebody can answer.
gain_root() {
    if [ "$(id -u)" = 0 ]; then
        as_root=(env)
    elif sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    elif command -v sudo >/dev/null && [ -t 0 ] && [ -t 2 ] && sudo -v; then
        as_root=(sudo)
    else
        return 1
    fi
}

# install_packages MANAGER=PACKAGE…: the first manager that exists installs its package.
install_packages() {
    local choice manager package
    for choice in "$@"; do
        manager=${choice%%=*} package=${choice#*=}
        command -v "$manager" >/dev/null || continue
        if [ "$manager" != brew ] && ! gain_root; then
            printf 'the package "%s" is missing, and installing it needs root, or sudo without a password\n' "$package" >&2
            return 1
        fi
        if "install_with_$manager" "$package" >&2; then return 0; fi
        printf 'could not install the package "%s" with %s\n' "$package" "$manager" >&2
        return 1
    done
    printf 'no known package manager found\n' >&2
    return 1
}

# Another installation may be under way, even one by these tests in another clone. Apt's own locks are not enough:
# they are let go between the download of an archive and its use.
install_with_apt-get() {
    local log
    for _ in $(seq 30); do
        if log=$(apt_get update 2>&1 && apt_get install -y --no-install-recommends "$1" 2>&1); then return 0; fi
        case $log in
        *'Could not get lock'* | *'nable to lock'* | *'cannot access archive'*) sleep 2 ;;
        *) break ;;
        esac
    done
    printf '%s\n' "$log" | tail -n 15
    return 1
}
apt_get() {
    local -a one_at_a_time=()
    if command -v flock >/dev/null; then one_at_a_time=(flock /var/lib/dpkg); fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive ${one_at_a_time[@]+"${one_at_a_time[@]}"} \
        apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
install_with_dnf() { "${as_root[@]}" dnf install -y -q "$1"; }
install_with_yum() { "${as_root[@]}" yum install -y -q "$1"; }
install_with_zypper() { "${as_root[@]}" zypper --non-interactive --quiet install "$1"; }
install_with_apk() { "${as_root[@]}" apk add --quiet "$1"; }
install_with_pacman() { "${as_root[@]}" pacman -S --noconfirm --needed --quiet "$1"; }
install_with_brew() { brew install --quiet "$1"; }
