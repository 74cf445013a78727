# shellcheck shell=bash disable=SC2154
# Makes packages of the static program: a tarball, .deb, .rpm and OCI image. To be sourced by dist.sh, which sets $out, $version,
# $revision and $epoch (the commit's time: the same commit gives the same bytes).

readonly package_summary='Copies every campaign of an ad platform into Postgres'
readonly package_description='One static program that copies every campaign of an unreliable, rate-limited ad platform into
 Postgres: complete, exactly once in effect, resumable, from one machine or many.'

# pack PROGRAM TRIPLE ARCHITECTURE MACHINE: every package, and what is said of their contents. ARCHITECTURE is Debian's and
# OCI's word for the machine, MACHINE that of RPM and the kernel.
pack() {
    local metadata=$out/metadata.json root=$out/package-root document
    cargo metadata --locked --format-version 1 --filter-platform "$2" >"$metadata"
    for document in sbom licences; do
        cargo run --quiet --locked --example bill-of-materials "$document" "$(rustc --version)" <"$metadata" >"$out/$document"
    done
    rm "$metadata"
    mv "$out/sbom" "$out/sbom-$2.cdx.json"
    mv "$out/licences" "$out/LICENCES-$2"

    make_tarball "$1" "$2"
    stage "$1" "$2" "$root"
    if command -v dpkg-deb >/dev/null; then make_deb "$root" "$3"; else printf 'no .deb for %s: dpkg-deb is not here\n' "$2"; fi
    if command -v rpmbuild >/dev/null; then make_rpm "$root" "$4"; else printf 'no .rpm for %s: rpmbuild is not here\n' "$2"; fi
    rm -rf "$root"
    make_image "$1" "$3" "$2"
}

# archive FOLDER NAME…: a tar of them on stdout that tells nothing of who made it, where and when.
archive() {
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$epoch" -C "$1" -cf - "${@:2}"
}

make_tarball() {
    local name=campaign-sync-$version-$2 folder=$out/campaign-sync-$version-$2 shell
    rm -rf "$folder"
    mkdir -p "$folder/completions" "$folder/systemd" "$folder/examples"
    cp "$1" "$folder/campaign-sync"
    cp "$out/campaign-sync.1" LICENSE README.md CHANGELOG.md "$folder"
    # Where the README's links lead.
    install -D -m 0644 -t "$folder/src/docs" src/docs/*.md
    cp "$out/LICENCES-$2" "$folder/LICENCES"
    cp "$out/sbom-$2.cdx.json" "$folder/sbom.cdx.json"
    cp src/units/*.service src/units/*.timer src/units/*.sysusers "$folder/systemd"
    cp src/units/*.yaml src/units/grafana-dashboard.json "${settings[@]}" "$folder/examples"
    for shell in bash zsh fish; do
        "$out/campaign-sync" completions "$shell" >"$folder/completions/campaign-sync.$shell"
    done
    (cd "$folder" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
    archive "$out" "$name" | gzip -n9 >"$out/$name.tar.gz"
    rm -rf "$folder"
}

# The files of settings that a package puts into /etc/campaign-sync and never overwrites.
settings=()
for file in src/units/env src/units/config.toml; do
    if [ -f "$file" ]; then settings+=("$file"); fi
done

# stage PROGRAM TRIPLE ROOT: the files of a system package below ROOT.
stage() {
    local program=$1 root=$3 documents=$3/usr/share/doc/campaign-sync file mode
    rm -rf "$root"
    DESTDIR=$root PREFIX=/usr "$support/install.sh" "$program" "$out/campaign-sync.1" "$out/campaign-sync" >/dev/null
    gzip -9n "$root/usr/share/man/man1/campaign-sync.1"
    for file in "${settings[@]}"; do
        # The environment may come to hold a password of the database; systemd reads it as root.
        case $file in */env) mode=0600 ;; *) mode=0644 ;; esac
        install -D -m "$mode" "$file" "$root/etc/campaign-sync/${file##*/}"
    done
    install -D -m 0644 README.md "$documents/README.md"
    install -D -m 0644 -t "$documents/src/docs" src/docs/*.md
    install -D -m 0644 src/units/kubernetes-cronjob.yaml "$documents/examples/kubernetes-cronjob.yaml"
    gzip -9nc CHANGELOG.md | install -D -m 0644 /dev/stdin "$documents/changelog.gz"
    { cat LICENSE && printf '\n\n' && cat "$out/LICENCES-$2"; } | install -D -m 0644 /dev/stdin "$documents/copyright"
    gzip -9nc "$out/sbom-$2.cdx.json" | install -D -m 0644 /dev/stdin "$documents/sbom.cdx.json.gz"
    # The folders' modes come from the umask of whoever builds.
    find "$root" -type d -exec chmod 0755 {} +
    find "$root" -exec touch --no-dereference --date="@$epoch" {} +
}

# make_deb ROOT ARCHITECTURE
make_deb() {
    local root=$1 control=$1/DEBIAN
    mkdir -p "$control"
    cat >"$control/control" <<END
Package: campaign-sync
Version: $version
Architecture: $2
Maintainer: campaign-sync maintainers <maintainers@campaign-sync.invalid>
Section: database
Priority: optional
Installed-Size: $(find "$root"/etc "$root"/usr -type f -printf '%s\n' | awk '{ bytes += $1 } END { print int(bytes / 1024) + 1 }')
Suggests: postgresql
Description: $package_summary
 $package_description
END
    printf '/etc/campaign-sync/%s\n' "${settings[@]##*/}" >"$control/conffiles"
    cp src/units/deb/postinst src/units/deb/prerm src/units/deb/postrm "$control"
    (cd "$root" && find usr -type f | LC_ALL=C sort | xargs md5sum) >"$control/md5sums"
    chmod 0644 "$control"/*
    chmod 0755 "$control" "$control"/post* "$control"/prerm
    find "$control" -exec touch --date="@$epoch" {} +
    SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Zgzip -z9 --build "$root" \
        "$out/campaign-sync_${version}_$2.deb" >/dev/null
    rm -rf "$control"
    touch --date="@$epoch" "$root"
}

# make_rpm ROOT ARCHITECTURE
make_rpm() {
    local root=$1 top
    top=$(cd "$out" && pwd)/rpm-build
    rm -rf "$top"
    mkdir -p "$top"
    cat >"$top/campaign-sync.spec" <<END
Name: campaign-sync
Version: $version
Release: 1
Summary: $package_summary
License: MIT
%global __os_install_post %{nil}
%global _build_id_links none
%global clamp_mtime_to_source_date_epoch 1
%global use_source_date_epoch_as_buildtime 1
%global _buildhost localhost
AutoReqProv: no
%description
 $package_description
%install
cp -a "$(cd "$root" && pwd)/." "%{buildroot}"
%post
$(cat src/units/rpm/post)
%preun
$(cat src/units/rpm/preun)
%postun
$(cat src/units/rpm/postun)
%files
%defattr(-,root,root,-)
$(printf '%%config(noreplace) /etc/campaign-sync/%s\n' "${settings[@]##*/}")
%dir /etc/campaign-sync
/usr/bin/campaign-sync
/usr/lib/systemd/system/campaign-sync*
/usr/lib/sysusers.d/campaign-sync.conf
/usr/share/bash-completion/completions/campaign-sync
/usr/share/campaign-sync
/usr/share/doc/campaign-sync
/usr/share/fish/vendor_completions.d/campaign-sync.fish
/usr/share/man/man1/campaign-sync.1.gz
/usr/share/zsh/site-functions/_campaign-sync
END
    SOURCE_DATE_EPOCH=$epoch rpmbuild --quiet -bb --target "$2" --define "_topdir $top" \
        --define '_binary_payload w9.gzdio' "$top/campaign-sync.spec" >"$top/log" 2>&1 || { cat "$top/log" >&2; return 1; }
    mv "$top"/RPMS/*/*.rpm "$out/campaign-sync-$version-1.$2.rpm"
    rm -rf "$top"
}

# blob FILE: moves it among the image's blobs and prints its digest.
blob() {
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$image/blobs/sha256/$digest"
    printf '%s' "$digest"
}

# make_image PROGRAM ARCHITECTURE TRIPLE: an OCI image of the program and nothing else, as `podman load`, `skopeo copy
# oci-archive:` and `docker load` take it.
make_image() {
    local image=$out/image root=$out/image-root layer layer_size diff config config_size manifest manifest_size created
    rm -rf "$image" "$root"
    mkdir -p "$image/blobs/sha256" "$root/tmp" "$root/var/lib/campaign-sync"
    install -D -m 0755 "$1" "$root/usr/bin/campaign-sync"
    install -D -m 0644 LICENSE "$root/usr/share/doc/campaign-sync/LICENSE"
    install -D -m 0644 "$out/LICENCES-$3" "$root/usr/share/doc/campaign-sync/LICENCES"
    # For sslrootcert and SSL_CERT_FILE; the program itself trusts Mozilla's list that is built in.
    install -D -m 0644 "$(certificates)" "$root/etc/ssl/certs/ca-certificates.crt"
    printf 'root:x:0:0::/:/none\ncampaign-sync:x:65532:65532::/var/lib/campaign-sync:/none\n' |
        install -D -m 0644 /dev/stdin "$root/etc/passwd"
    printf 'root:x:0:\ncampaign-sync:x:65532:\n' | install -D -m 0644 /dev/stdin "$root/etc/group"
    created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
    archive "$root" --exclude=./tmp --exclude=./var/lib/campaign-sync . >"$out/layer.tar"
    tar --owner=65532 --group=65532 --numeric-owner --mode=0700 --mtime="@$epoch" -C "$root" \
        -rf "$out/layer.tar" ./var/lib/campaign-sync
    tar --owner=0 --group=0 --numeric-owner --mode=1777 --mtime="@$epoch" -C "$root" -rf "$out/layer.tar" ./tmp
    diff=$(sha256sum "$out/layer.tar" | cut -d' ' -f1)
    gzip -n9 "$out/layer.tar"
    layer_size=$(wc -c <"$out/layer.tar.gz") layer=$(blob "$out/layer.tar.gz")
    cat >"$out/config.json" <<END
{"created":"$created","architecture":"$2","os":"linux","config":{"User":"65532:65532","Env":["PATH=/usr/bin"],"Entrypoint":["/usr/bin/campaign-sync"],"Cmd":["--help"],"WorkingDir":"/var/lib/campaign-sync","Labels":{"org.opencontainers.image.title":"campaign-sync","org.opencontainers.image.description":"$package_summary","org.opencontainers.image.version":"$version","org.opencontainers.image.revision":"$revision","org.opencontainers.image.created":"$created","org.opencontainers.image.licenses":"MIT"}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"$created","created_by":"make dist"}]}
END
    config_size=$(wc -c <"$out/config.json") config=$(blob "$out/config.json")
    cat >"$out/manifest.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
END
    manifest_size=$(wc -c <"$out/manifest.json") manifest=$(blob "$out/manifest.json")
    printf '{"imageLayoutVersion":"1.0.0"}' >"$image/oci-layout"
    cat >"$image/index.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$2","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"$version","io.containerd.image.name":"campaign-sync:$version"}}]}
END
    # For versions of Docker that do not read the index.
    cat >"$image/manifest.json" <<END
[{"Config":"blobs/sha256/$config","RepoTags":["campaign-sync:$version"],"Layers":["blobs/sha256/$layer"]}]
END
    archive "$image" blobs index.json manifest.json oci-layout >"$out/campaign-sync-$version-$2.oci.tar"
    rm -rf "$image" "$root"
}

# The machine's bundle of certificate authorities.
certificates() {
    local file
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -f "$file" ]; then
            printf '%s' "$file"
            return
        fi
    done
    die 'no bundle of certificate authorities for the image: install ca-certificates and try again'
}
