#!/usr/bin/env bash
# Sets up a private rustc that can compile for wasm32-unknown-unknown, for machines where
# `rustup target add wasm32-unknown-unknown` is not possible. Debian and Ubuntu on x86_64 only.
#
# It unpacks Debian's rustc-web packages below PREFIX (nothing is installed, and root is needed only
# if apt's package lists have to be updated) and builds the standard library for the target once. The result is an
# ordinary stable compiler: use it by `RUSTC=$PREFIX/bin/rustc cargo build --target ...`, with a
# target directory of its own, because a different RUSTC invalidates the other one's cache.
#
#   PREFIX=<dir>               where to put it (default: <repository>/.tools/rust-wasm), about 560 MB
#   RUSTC_WEB_VERSION=<ver>    a Debian package version (default: what is there, else apt's candidate)
#
# Idempotent: a stamp file records what was set up, and a second run does nothing.
set -euo pipefail

TARGET=wasm32-unknown-unknown
HOST=x86_64-unknown-linux-gnu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
PREFIX=${PREFIX:-$repository/.tools/rust-wasm}
mkdir -p "$PREFIX"
PREFIX=$(cd "$PREFIX" && pwd)

fail() { printf 'setup-wasm-toolchain: %s\n' "$*" >&2; exit 1; }
log() { printf 'setup-wasm-toolchain: %s\n' "$*" >&2; }

[ "$(uname -sm)" = "Linux x86_64" ] || fail "only Linux x86_64 is supported; use rustup target add $TARGET"
for tool in apt-get apt-cache dpkg-deb cargo; do
    command -v "$tool" >/dev/null || fail "needs $tool"
done

# What is there stays, also when apt's candidate moves on: another compiler builds other bytes.
stamp=$PREFIX/.stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "${RUSTC_WEB_VERSION:-$(cut -d' ' -f1 "$stamp")} $TARGET" ]; then
    log "$(cat "$stamp") is already there"
    exit 0
fi

candidate() { apt-cache policy rustc-web | awk '/Candidate:/ && $2 != "(none)" { print $2 }'; }
# The manifests of the guests state rust-version 1.95.
is_recent() { local minor=${1#1.}; [ -n "$1" ] && [ "${minor%%.*}" -ge 95 ]; }
version=${RUSTC_WEB_VERSION:-$(candidate)}
if ! is_recent "$version"; then
    log "apt offers rustc-web '$version', at least 1.95 is needed: updating its package lists"
    apt-get update -q >&2 || fail "cannot update apt's package lists; run apt-get update as root"
    version=${RUSTC_WEB_VERSION:-$(candidate)}
fi
is_recent "$version" || fail "apt offers rustc-web '$version', at least 1.95 is needed"
minor=$(printf '%s' "$version" | cut -d. -f1,2)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf "$PREFIX/usr" "$PREFIX/bin" "$stamp"
mkdir -p "$PREFIX/usr" "$PREFIX/bin"

# The compiler's library names the LLVM it was built with by its dependencies.
llvm=$(apt-cache show "libstd-rust-web-$minor=$version" | awk 'match($0, /libllvm[0-9]+/) && !seen++ { print substr($0, RSTART, RLENGTH) }')
[ -n "$llvm" ] || fail "cannot tell which LLVM rustc-web $version wants"
lld=lld-${llvm#libllvm}

log "fetching rustc-web $version, $llvm, $lld (about 150 MB)"
(cd "$scratch" && apt-get download -q \
    "rustc-web=$version" "libstd-rust-web-$minor=$version" "libstd-rust-web-dev=$version" \
    "rust-web-src=$version" "$llvm" "$lld" >&2)

for deb in "$scratch"/*.deb; do
    case ${deb##*/} in
        rust-web-src*) # only the standard library's sources: 70 of 330 MB
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$PREFIX" --wildcards './usr/src/*/library/*' ;;
        *) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$PREFIX" ./usr ;;
    esac
done

sysroot=$PREFIX/usr
lib=$sysroot/lib
# rustc looks for its linker and its sources at fixed places below the sysroot.
mkdir -p "$lib/rustlib/$HOST/bin" "$lib/rustlib/src/rust"
ln -sfn "$sysroot/lib/llvm-${llvm#libllvm}/bin/lld" "$lib/rustlib/$HOST/bin/rust-lld"
source=$(find "$sysroot/src" -maxdepth 2 -type d -name library -print -quit)
[ -n "$source" ] || fail "rust-web-src holds no library/"
rm -rf "$lib/rustlib/src/rust/library"
ln -sfn "$source" "$lib/rustlib/src/rust/library"

shared=$lib:$lib/x86_64-linux-gnu:$lib/llvm-${llvm#libllvm}/lib
real=$sysroot/bin/rustc
[ -x "$real" ] || fail "the package holds no rustc"
cat > "$PREFIX/bin/rustc" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$shared\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$real" --sysroot "$sysroot" "\$@"
WRAPPER
chmod +x "$PREFIX/bin/rustc"

driver=$(find "$lib" -name 'librustc_driver*.so' -print -quit)
missing=$(LD_LIBRARY_PATH=$shared ldd "$real" "$driver" "$sysroot/lib/llvm-${llvm#libllvm}/bin/lld" | awk '/not found/ { print $1 }' | sort -u)
[ -z "$missing" ] || fail "shared libraries are missing: $missing (installing $llvm brings them)"
"$PREFIX/bin/rustc" -vV >&2

log "building the standard library for $TARGET"
probe=$scratch/probe
mkdir -p "$probe/src"
cat > "$probe/Cargo.toml" <<'MANIFEST'
[package]
name = "probe"
version = "0.0.0"
edition = "2024"
[lib]
crate-type = ["rlib"]
[profile.release]
panic = "abort"
[workspace]
MANIFEST
: > "$probe/src/lib.rs"
# Bitcode must be embedded, or guests with `lto = true` do not link. Paths are remapped, because panic
# messages in the guests hold them. RUSTC_BOOTSTRAP only here: -Zbuild-std is unstable, what it leaves
# behind is an ordinary sysroot.
flags=(-Cembed-bitcode=yes "--remap-path-prefix=$lib/rustlib/src/rust=rust" "--remap-path-prefix=$(dirname "$source")=rust")
# Fetched first, so that the directory which must be remapped exists.
RUSTC_BOOTSTRAP=1 RUSTC="$PREFIX/bin/rustc" cargo fetch --quiet --locked --manifest-path "$source/Cargo.toml" --target "$TARGET" >&2
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=("--remap-path-prefix=$sources=crates")
done
encoded=$(IFS=$'\037'; printf '%s' "${flags[*]}")
(cd "$probe" && env -u RUSTC_WRAPPER -u CARGO_TARGET_DIR RUSTC="$PREFIX/bin/rustc" RUSTC_BOOTSTRAP=1 \
    CARGO_ENCODED_RUSTFLAGS="$encoded" cargo build --release --quiet \
    -Zbuild-std=std,panic_abort --target "$TARGET" --target-dir "$scratch/target" >&2)
mkdir -p "$lib/rustlib/$TARGET/lib"
cp "$scratch/target/$TARGET"/release/deps/*.rlib "$lib/rustlib/$TARGET/lib/"
rm -f "$lib/rustlib/$TARGET/lib"/libprobe*.rlib

printf '%s %s' "$version" "$TARGET" > "$stamp"
log "done: RUSTC=$PREFIX/bin/rustc"
