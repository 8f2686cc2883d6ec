#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, from what prepare.sh packed. See README.md.
#
#   bench/gpu/run.sh [conformance|sanitize|bench|model|profile ...]      default: all, in the order below
#
# MOEC_REHEARSE=1   without a GPU: the toy shape on the CPU, packages under the emulator; numbers mean nothing
# OUT               where everything lands; default: reports in bench/results, the rest in .moec/gpu-out
# MOEC_SECONDS      for all stages together, default 560: a stage gets what is left, at most its own box
# MOEC_SHAPES, MOEC_TOKENS   of stage bench, such as `deepseekmoe-16b` and `4096,1`
#
# A stage that fails or runs out of time leaves what it measured; the next one runs all the same.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

readonly ROOT=$PWD
readonly HERE=$ROOT/bench/gpu
readonly WORK=${MOEC_WORK:-/tmp/moec-gpu}
readonly REPORTS=${OUT:-$ROOT/bench/results}
readonly OUTPUT=${OUT:-$ROOT/.moec/gpu-out}
readonly RESULTS=$OUTPUT/results.jsonl
readonly LOG=$OUTPUT/log.txt
END=$((SECONDS + ${MOEC_SECONDS:-560}))
readonly PYTHON=${MOEC_PYTHON:-python3}
BENCH_FLAGS=()
mkdir -p "$OUTPUT" "$REPORTS" "$WORK"
if [ "${MOEC_REHEARSE:-0}" = 1 ]; then
  export MOEC_CUDA_EMULATE=1 MOEC_SHAPES=${MOEC_SHAPES:-toy} MOEC_TOKENS=${MOEC_TOKENS:-1,8,40} MOEC_ARCH=${MOEC_ARCH:-sm_90a}
  BENCH_FLAGS=(--device cpu --rounds 2)
fi

say() { printf '%s\n' "$*" | tee -a "$LOG"; }
left() { echo $((END - SECONDS)); }
least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

# One line of results: kind and members as given, quoted by Python.
row() { # command, key=value ...
  "$PYTHON" - "$RESULTS" "$@" <<'PY'
import json, sys
path, command, *pairs = sys.argv[1:]
def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
row = {k: value(v) for k, v in (p.split("=", 1) for p in pairs)}
with open(path, "a") as f:
    f.write(json.dumps({**row, "command": command}) + "\n")
PY
}

unpack() {
  if [ ! -f "$WORK/ready" ] || [ "$HERE/carry/gpu.tar.xz" -nt "$WORK/ready" ]; then
    [ -f "$HERE/carry/gpu.tar.xz" ] || { say "there is no bench/gpu/carry/gpu.tar.xz: make it with bench/gpu/prepare.sh"; exit 1; }
    rm -rf "${WORK:?}"/*
    if command -v xz >/dev/null; then tar -xJf "$HERE/carry/gpu.tar.xz" -C "$WORK"
    else "$PYTHON" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$HERE/carry/gpu.tar.xz" "$WORK"; fi || exit 1
    chmod +x "$WORK/bin/node"
    touch "$WORK/ready"
  fi
  NODE=$WORK/bin/node
  "$NODE" --version >/dev/null || { say "the carried Node does not run here"; exit 1; }
  [ ! -d "$WORK/peers" ] || export MOEC_TRITON_PEER=${MOEC_TRITON_PEER:-$WORK/peers}
}

# Libraries that were not built beforehand, several at once.
build_missing() {
  local directories=() flags=() wanted='*-sm_*.so' all=("$WORK"/packages/* "$WORK"/models/* "$WORK"/golden/*)
  if [ "${MOEC_CUDA_EMULATE:-0}" = 1 ]; then
    flags=(--emulate)
    wanted='*-emulated.so'
    all=("$WORK"/packages/toy*)
  fi
  for d in "${all[@]}"; do
    [ ! -d "$d/cuda" ] || compgen -G "$d/cuda/lib/$wanted" >/dev/null || directories+=("$d")
  done
  [ ${#directories[@]} = 0 ] || {
    say "building ${#directories[@]} libraries"
    printf '%s\0' "${directories[@]}" | timeout -k 5 "$(least "$(left)" 300)" xargs -0 -P "$(nproc)" -I{} "$NODE" {}/cuda/build.js "${flags[@]}" >>"$LOG" 2>&1
  }
}

# What this device runs: sm_90a is for 9.0 alone.
architecture() {
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
    9.0) echo sm_90a ;;
    *) echo sm_80 ;;
  esac
}

conformance() {
  local binary=$WORK/conformance source=tests/codegen/cuda/conformance.cu build packages=("$WORK"/packages/*-"$ARCH" "$WORK"/golden/*)
  case ${MOEC_CUDA_EMULATE:-0}$ARCH in
    1*)
      build="g++ -x c++ -std=c++17 -O1 -ffp-contract=off -fno-strict-aliasing"
      packages=("$WORK"/packages/toy*-"$ARCH")
      ;;
    0sm_90a) build="nvcc -O3 -std=c++17 --fmad=false -gencode arch=compute_90a,code=sm_90a" ;;
    *) build="nvcc -O3 -std=c++17 --fmad=false -gencode arch=compute_80,code=sm_80 -gencode arch=compute_80,code=compute_80" ;;
  esac
  if $build -o "$binary" "$source"; then
    "$PYTHON" "$HERE/conformance_rows.py" "$binary" "$RESULTS" 60
  else
    row "bench/gpu/run.sh conformance" kind=check stage=conformance "name=the build" ok=false "detail=$source does not compile"
  fi
  "$NODE" "$WORK/js/bench/gpu/verify.js" "${packages[@]}" --results "$RESULTS"
}

sanitize() {
  local tool package status detail
  for package in "toy-$ARCH" "toy.dense-$ARCH"; do
    for tool in memcheck racecheck synccheck initcheck; do
      [ "$(left)" -gt 10 ] || return
      echo "--- $tool $package"
      timeout -k 5 "$(least "$(left)" 90)" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 10 \
        "$NODE" "$WORK/js/bench/gpu/exercise.js" "$WORK/packages/$package" --tokens 1,8,40,200 >"$WORK/sanitize.txt" 2>&1
      status=$?
      cat "$WORK/sanitize.txt"
      detail=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|========= (Error|Invalid|Warning|Uninit|Barrier)' "$WORK/sanitize.txt" | tail -n 3 | tr '\n' ' ')
      [ "$status" != 124 ] || detail="ran out of time. $detail"
      row "bench/gpu/run.sh sanitize" kind=check stage=sanitizers "name=$tool $package" "ok=$([ "$status" = 0 ] && echo true || echo false)" "detail=exit status $status. $detail"
    done
  done
}

bench() {
  "$PYTHON" -u "$HERE/layers.py" --results "$RESULTS" --packages "$WORK/packages" --node "$NODE" --script "$WORK/js/bench/gpu/moec.js" \
    --seconds "$(($1 - 15))" "${BENCH_FLAGS[@]}"
}

model() {
  "$NODE" "$WORK/js/bench/gpu/model.js" "$WORK/models/deepseek-moe-16b-$ARCH" "$WORK/models/deepseek-7b-$ARCH" \
    --tokens 4096,1 --seconds "$(($1 - 60))" --results "$RESULTS"
}

profile() {
  # The clocks stay as they are; products first, then whatever else the layer launches.
  timeout -k 5 "$(($1 - 5))" ncu --clock-control none --target-processes all --csv --page details \
    --section SpeedOfLight --section LaunchStats --section Occupancy --section MemoryWorkloadAnalysis --section ComputeWorkloadAnalysis --section SchedulerStats \
    --launch-count 24 --log-file "$OUTPUT/profile.csv" \
    "$NODE" "$WORK/js/bench/gpu/exercise.js" "$WORK/packages/deepseekmoe-16b-$ARCH" --tokens 4096,1
  "$PYTHON" "$HERE/profile_rows.py" "$OUTPUT/profile.csv" "$RESULTS"
}

stage() { # name, seconds at most
  local name=$1 seconds status began=$SECONDS
  seconds=$(least "$(left)" "$2")
  if [ "$seconds" -lt 20 ]; then
    say "== $name: no time left"
    row "bench/gpu/run.sh $name" kind=skip shape=all "what=stage $name" tokens=null routing=null "reason=no time left"
    return
  fi
  say "== $name, at most $seconds s"
  # In a process of its own, so that the box can end it whole.
  timeout -k 10 "$seconds" bash "$HERE/run.sh" --inside "$name" "$seconds" 2>&1 | tee -a "$LOG"
  status=${PIPESTATUS[0]}
  say "== $name: exit status $status after $((SECONDS - began)) s"
  row "bench/gpu/run.sh $name" kind=stage "name=$name" "status=$status" "seconds=$((SECONDS - began))"
}

ARCH=${MOEC_ARCH:-$(architecture)}
if [ "${1:-}" = --inside ]; then
  END=$((SECONDS + $3 - 5))
  NODE=$WORK/bin/node
  [ ! -d "$WORK/peers" ] || export MOEC_TRITON_PEER=${MOEC_TRITON_PEER:-$WORK/peers}
  "$2" "$3"
  exit
fi

declare -A BOX=([conformance]=150 [sanitize]=240 [bench]=520 [model]=240 [profile]=120)
[ $# -gt 0 ] || set -- conformance bench model sanitize profile
for name in "$@"; do
  [ -n "${BOX[$name]:-}" ] || { say "there is no stage $name: ${!BOX[*]}"; exit 2; }
done

unpack
build_missing
for name in "$@"; do stage "$name" "${BOX[$name]}"; done
"$NODE" "$WORK/js/bench/gpu/report.js" "$RESULTS" --out "$REPORTS" 2>&1 | tee -a "$LOG"
