#!/usr/bin/env bash
# Builds the example guests into prebuilt/.
#
#   build.sh           build and replace prebuilt/*.wasm
#   build.sh --check   build into a temporary directory; compare with prebuilt/ byte for byte if the
#                      compiler is the one that built them, and run the host's tests of the guests
#                      against the fresh ones in any case
#
# Uses rustc's own wasm32-unknown-unknown target where it is installed (rustup target add ...), else a
# private toolchain below .tools/ (setup-wasm-toolchain.sh). GUESTS_TARGET_DIR sets the target
# directory; it is never the host's, whose cache another compiler would invalidate.
set -euo pipefail

TARGET=wasm32-unknown-unknown
COMPONENTS=(moving-average threshold-alert)
MODULES=(triple word-count word-split)

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
target_dir=${GUESTS_TARGET_DIR:-$here/target}

check=no
case ${1:-} in
    '') ;;
    --check) check=yes ;;
    *) printf 'usage: build.sh [--check]\n' >&2; exit 2 ;;
esac

native_rustc=${RUSTC:-rustc}
if [ -d "$("$native_rustc" --print sysroot)/lib/rustlib/$TARGET" ]; then
    guest_rustc=$native_rustc
else
    "$here/setup-wasm-toolchain.sh"
    guest_rustc=${PREFIX:-$repository/.tools/rust-wasm}/bin/rustc
fi
compiler=$("$guest_rustc" -V)

# Panic messages hold source paths: make them the same on every machine. The last match wins.
(cd "$here" && cargo fetch --quiet --locked)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$("$guest_rustc" --print sysroot)
flags=("--remap-path-prefix=$repository=.")
for sources in "$cargo_home"/registry/src/*; do flags+=("--remap-path-prefix=$sources=crates"); done
for sources in "$sysroot/lib/rustlib/src/rust" "$(cd -P "$sysroot/lib/rustlib/src/rust/library/.." 2>/dev/null && pwd)"; do
    [ -z "$sources" ] || flags+=("--remap-path-prefix=$sources=rust")
done
remap=$(IFS=$'\037'; printf '%s' "${flags[*]}")

(
    # What the caller set for other builds would leak into the guests.
    unset CARGO_TARGET_DIR RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
    cd "$here"
    packages=()
    for name in "${COMPONENTS[@]}" "${MODULES[@]}"; do packages+=(--package "$name"); done
    RUSTC=$guest_rustc CARGO_ENCODED_RUSTFLAGS=$remap \
        cargo build --release --locked --target "$TARGET" --target-dir "$target_dir/guests" "${packages[@]}"
    # The tool runs here, so it is built by the ordinary compiler.
    cargo build --locked --package componentize --target-dir "$target_dir/tools"
)

built=$target_dir/guests/$TARGET/release
out=$here/prebuilt
if [ "$check" = yes ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
for name in "${COMPONENTS[@]}"; do
    "$target_dir/tools/debug/componentize" "$built/${name//-/_}.wasm" "$out/$name.wasm"
done
for name in "${MODULES[@]}"; do
    install -m 644 "$built/${name//-/_}.wasm" "$out/$name.wasm"
done

if [ "$check" = no ]; then
    printf '%s\n' "$compiler" > "$out/COMPILER"
    (cd "$out" && wc -c -- *.wasm)
    exit 0
fi

if [ "$compiler" = "$(cat "$here/prebuilt/COMPILER")" ]; then
    for name in "${COMPONENTS[@]}" "${MODULES[@]}"; do
        cmp "$out/$name.wasm" "$here/prebuilt/$name.wasm"
    done
    printf 'build.sh: prebuilt/ is what %s makes of the sources\n' "$compiler"
else
    printf 'build.sh: prebuilt/ is by another compiler, its bytes are not compared\n'
fi
cd "$repository"
# As the gate has built it: the host alone has other features, and Cranelift would be built once more.
SELVEDGE_GUESTS_DIR=$out cargo test --workspace --all-features --test example_guests
