#!/usr/bin/env bash
# Packs what a machine with an NVIDIA GPU, but without Node and without a network, needs into bench/gpu/carry:
# Node, koffi's binary, the scripts as JavaScript, compiled packages with their libraries, and the Triton peers that
# MOEC_TRITON_PEER names (files or directories, separated by `:`). Needs no GPU. See README.md.
#
#   bench/gpu/prepare.sh [WORD...]            all packages, or those whose name holds a word; libraries built here where nvcc is
#   MOEC_PREBUILD=0 bench/gpu/prepare.sh      leaves the libraries to the other machine
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly CARRY=bench/gpu/carry
readonly STAGING=.moec/gpu-carry
readonly LIBRARIES=.moec/gpu-libraries
readonly LIMIT_MIB=60
# Compared and profiled on both architectures; the others on the newest alone.
readonly BOTH_ARCHITECTURES="toy deepseekmoe-16b"
PREBUILD=${MOEC_PREBUILD:-1}
command -v nvcc >/dev/null || PREBUILD=0

say() { printf '%s\n' "$*"; }
began=$SECONDS

say "compiling moec and the scripts"
npm run --silent build
rm -rf .moec/gpu
npx tsc -p bench/gpu

rm -rf "$STAGING"
mkdir -p "$STAGING/packages" "$STAGING/models" "$STAGING/golden" "$STAGING/js" "$STAGING/node_modules/@koromix" "$STAGING/bin" "$LIBRARIES"

# Types alone are imported from src, so the scripts need nothing of it at run time.
mkdir -p "$STAGING/js/bench"
cp -r .moec/gpu/bench/gpu "$STAGING/js/bench/gpu"
printf '{ "type": "module" }\n' >"$STAGING/js/package.json"

# koffi: its JavaScript and the one binary.
mkdir -p "$STAGING/node_modules/koffi"
(cd node_modules/koffi && find . -type f \( -name '*.js' -o -name '*.cjs' -o -name '*.mjs' -o -name package.json -o -name LICENSE.txt \) -not -path './vendor/*' -not -path './doc/*' -not -path './src/*' -print0 |
  tar -cf - --null -T -) | tar -xf - -C "$STAGING/node_modules/koffi"
cp -r node_modules/@koromix/koffi-linux-x64 "$STAGING/node_modules/@koromix/"

cp "$(readlink -f "$(command -v node)")" "$STAGING/bin/node"

# Paths of the libraries of a package and of the scaled-down twin in it; their names carry the digest of what they are built of.
library_paths() { # package directory
  node --input-type=module -e '
    import { existsSync, readFileSync } from "node:fs";
    const [root] = process.argv.slice(1);
    const { libraryPath } = await import(`${root}/runtime/node/cuda-flags.js`);
    for (const directory of [root, `${root}/golden`]) {
      const file = `${directory}/manifest.json`;
      const cuda = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).cuda : undefined;
      if (cuda !== undefined) console.log(libraryPath(directory, cuda, { arch: cuda.arch, emulate: false }));
    }' "$PWD/$1"
}

# Builds what was not built before.
build_libraries() { # package directory
  local paths path missing=0
  paths=$(library_paths "$1") || return 1
  for path in $paths; do
    mkdir -p "$(dirname "$path")"
    cp "$LIBRARIES/$(basename "$path")" "$path" 2>/dev/null || missing=1
  done
  [ "$missing" = 1 ] || return 0
  node "$1/cuda/build.js" >"$LIBRARIES/log.txt" 2>&1 || return 1
  for path in $paths; do cp "$path" "$LIBRARIES/" || return 1; done
}

compile() { # spec, architecture, directory
  node dist/cli/main.js compile "$1" --target cuda --arch "$2" --skip-build --out "$3" >/dev/null 2>&1 || { say "  $1 does not compile for $2"; return 1; }
  [ "$PREBUILD" = 0 ] || build_libraries "$3" || { say "  $3: its library does not build"; tail -n 5 "$LIBRARIES/log.txt"; return 1; }
}

readonly WORDS=("$@")
wanted() { # name
  local word
  [ ${#WORDS[@]} -gt 0 ] || return 0
  for word in "${WORDS[@]}"; do [[ $1 != *"$word"* ]] || return 0; done
  return 1
}

failed=0
for spec in bench/gpu/specs/*.moe; do
  name=$(basename "$spec" .moe)
  wanted "$name" || continue
  architectures=sm_90a
  for both in $BOTH_ARCHITECTURES; do [ "${name%.dense}" != "$both" ] || architectures="sm_80 sm_90a"; done
  for arch in $architectures; do
    say "package $name for $arch"
    compile "$spec" "$arch" "$STAGING/packages/$name-$arch" || failed=$((failed + 1))
  done
done
for name in deepseek-moe-16b deepseek-7b; do
  wanted "$name" || continue
  say "model $name"
  compile "examples/$name.moe" sm_90a "$STAGING/models/$name-sm_90a" || failed=$((failed + 1))
done
# Every router and network of the golden vectors, in bf16, where the tensor cores work; a few as written, in f32.
readonly IN_F32="deepseekmoe_softmax_topk_shared gshard_top2_cap4_norm_after_drop expert_choice gpt_oss_clamped_swiglu_bias"
for spec in tests/golden-specs/*.moe; do
  name=$(basename "$spec" .moe)
  wanted "$name" || continue
  sed 's/^\( *\)hidden /\1dtype bf16  hidden /' "$spec" >"$STAGING/half.moe"
  compile "$STAGING/half.moe" sm_90a "$STAGING/golden/$name-bf16" || failed=$((failed + 1))
  [[ " $IN_F32 " != *" $name "* ]] || compile "$spec" sm_90a "$STAGING/golden/$name" || failed=$((failed + 1))
done
say "golden packages: $(find "$STAGING/golden" -mindepth 1 -maxdepth 1 -type d | wc -l)"
rm -f "$STAGING/half.moe"

# Not part of this repository: see README.md.
if [ -n "${MOEC_TRITON_PEER:-}" ]; then
  mkdir -p "$STAGING/peers"
  IFS=: read -ra peers <<<"$MOEC_TRITON_PEER"
  for peer in "${peers[@]}"; do
    if [ -d "$peer" ]; then cp "$peer"/*.py "$STAGING/peers/"; else cp "$peer" "$STAGING/peers/"; fi
  done
fi

say "packing"
rm -rf "$CARRY"
mkdir -p "$CARRY"
# One stream: the same runtime lies in every package, and in every library; the window must reach from one to the next.
tar -C "$STAGING" --sort=name --owner=0 --group=0 -cf - . | xz -T1 --lzma2=preset=9e,dict=256MiB >"$CARRY/gpu.tar.xz"
size=$(stat -c %s "$CARRY/gpu.tar.xz")
rm -rf "$STAGING"
say "$CARRY: $(((size + 1048575) / 1048576)) MiB after $((SECONDS - began)) s, $failed packages failed"
if [ "$size" -gt $((LIMIT_MIB << 20)) ]; then
  say "over the limit of $LIMIT_MIB MiB: leave packages out"
  exit 1
fi
[ "$failed" = 0 ]
