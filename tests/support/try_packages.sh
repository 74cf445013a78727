#!/usr/bin/env bash
# Tries the packages in target/dist: installs, upgrades, removes and purges the .deb and the .rpm below a folder of its own, and
# starts the program of the OCI image with nothing else around it. Needs root, or a kernel that lets users make namespaces.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly dist=$PWD/target/dist

die() {
    printf 'try_packages.sh: %s\n' "$*" >&2
    exit 1
}
skip() { printf 'not tried: %s\n' "$*"; }

if [ "$(id -u)" != 0 ]; then
    unshare --map-root-user true 2>/dev/null || { skip 'packages: this takes root, or unshare and user namespaces'; exit; }
    exec unshare --map-root-user "$0"
fi

(cd "$dist" && sha256sum --quiet --check SHA256SUMS) || die 'SHA256SUMS does not fit'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# has ROOT PLACE…: what a package must have put there.
has() {
    local place
    for place in "${@:2}"; do [ -e "$1/$place" ] || die "$1/$place is missing"; done
}
readonly places=(
    usr/bin/campaign-sync usr/share/man/man1/campaign-sync.1.gz usr/share/doc/campaign-sync/copyright
    usr/share/doc/campaign-sync/sbom.cdx.json.gz usr/lib/systemd/system/campaign-sync.service
    usr/lib/systemd/system/campaign-sync-accounts.timer usr/lib/sysusers.d/campaign-sync.conf etc/campaign-sync/env
)

try_deb() {
    local root=$scratch/deb edited
    mkdir -p "$root/etc" "$root/var/lib/dpkg"/{info,updates,triggers} "$root/var/lib/campaign-sync"
    touch "$root/var/lib/dpkg/status" "$root/etc/passwd" "$root/etc/group"
    package() {
        dpkg --root="$root" --log=/dev/null --force-script-chrootless --force-depends "$@" >"$scratch/log" 2>&1 </dev/null || {
            cat "$scratch/log" >&2
            die "dpkg $* fails"
        }
    }
    package --install "$dist"/campaign-sync_*_amd64.deb
    has "$root" "${places[@]}"
    [ "$(stat -c %a "$root/etc/campaign-sync/env")" = 600 ] || die 'the environment file may be read by others'
    grep -q ^campaign-sync: "$root/etc/passwd" || die 'the .deb made no user'
    "$root/usr/bin/campaign-sync" --help >/dev/null || die 'the program of the .deb does not start'

    # The next version leaves what the administrator has written.
    printf 'DATABASE_URL=postgres://kept\n' >"$root/etc/campaign-sync/env"
    edited=$scratch/next
    dpkg-deb --raw-extract "$dist"/campaign-sync_*_amd64.deb "$edited"
    sed -i 's/^Version: .*/Version: 999/' "$edited/DEBIAN/control"
    dpkg-deb --root-owner-group -Znone --build "$edited" "$scratch/next.deb" >/dev/null
    package --install "$scratch/next.deb"
    grep -q kept "$root/etc/campaign-sync/env" || die 'an upgrade overwrites the settings'

    package --remove campaign-sync
    [ ! -e "$root/usr/bin/campaign-sync" ] || die 'removing the .deb leaves the program'
    has "$root" etc/campaign-sync/env var/lib/campaign-sync
    package --purge campaign-sync
    [ ! -e "$root/etc/campaign-sync" ] || die 'purging the .deb leaves its settings'
    [ ! -e "$root/var/lib/campaign-sync" ] || die 'purging the .deb leaves its state'
    printf 'the .deb: installed, upgraded, removed, purged\n'
}

try_rpm() {
    local root=$scratch/rpm file
    file=$(echo "$dist"/campaign-sync-*.x86_64.rpm)
    mkdir -p "$root"
    # Scripts would need a shell below the folder; they are read for errors only.
    rpm -qp --qf '%{POSTIN}\n%{PREUN}\n%{POSTUN}\n' "$file" | sh -n || die 'a script of the .rpm is not one'
    rpm --root "$root" --initdb
    rpm --root "$root" --install --nodeps --noscripts "$file"
    has "$root" "${places[@]}"
    "$root/usr/bin/campaign-sync" --help >/dev/null || die 'the program of the .rpm does not start'
    rpm --root "$root" --erase --noscripts campaign-sync
    [ ! -e "$root/usr/bin/campaign-sync" ] || die 'removing the .rpm leaves the program'
    printf 'the .rpm: installed, removed\n'
}

# digests JSON: what it refers to, in order.
digests() { grep -o '"digest":"sha256:[0-9a-f]*"' "$1" | sed 's/.*sha256:\(.*\)"/\1/'; }

try_image() {
    local image=$scratch/image root=$scratch/image-root blob blobs manifest config layer
    mkdir -p "$image" "$root"
    tar -C "$image" -xf "$(echo "$dist"/campaign-sync-*-amd64.oci.tar)"
    blobs=$image/blobs/sha256
    for blob in "$blobs"/*; do
        [ "$(sha256sum <"$blob" | cut -d' ' -f1)" = "${blob##*/}" ] || die "$blob: its name is not its checksum"
    done
    manifest=$(digests "$image/index.json")
    { read -r config && read -r layer; } < <(digests "$blobs/$manifest")
    grep -q "sha256:$(gzip -dc "$blobs/$layer" | sha256sum | cut -d' ' -f1)" "$blobs/$config" || die 'the layer is another'
    tar -C "$root" -xzf "$blobs/$layer"
    has "$root" etc/ssl/certs/ca-certificates.crt usr/share/doc/campaign-sync/LICENCES tmp
    # No variable, no /proc, no library.
    if [ "$(id -u)" = 0 ]; then
        env -i "$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)" "$root" /usr/bin/campaign-sync --help >/dev/null ||
            die 'the program of the image does not start'
    fi
    printf 'the image: unpacked, started\n'
}

if command -v dpkg-deb >/dev/null && compgen -G "$dist/*_amd64.deb" >/dev/null; then try_deb; else skip 'the .deb'; fi
if command -v rpm >/dev/null && compgen -G "$dist/*.x86_64.rpm" >/dev/null; then try_rpm; else skip 'the .rpm'; fi
try_image
