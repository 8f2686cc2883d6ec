/** Runs printed kernels under the emulator: g++ makes a program of each text (once), the program runs it over files. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '../../../src/base/hash.ts';
import { emitCuda } from '../../../src/codegen/cuda/emit.ts';
import { launchBytes } from '../../../src/codegen/cuda/layout.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import type { Kernel, ScalarName } from '../../../src/ir/kernel/types.ts';

const SOURCES = join(import.meta.dirname, '..', '..', '..', 'src', 'codegen', 'cuda');
const CACHE = join(tmpdir(), 'moec-emulated-kernels');

export const hasCompiler: boolean = spawnSync('g++', ['--version']).status === 0;

/** Who runs first, and whether asynchronous copies are done as late as they may be. */
export interface Mode {
  readonly order: 'fwd' | 'rev' | 'rand';
  readonly late: 0 | 1;
}

export const MODES: readonly Mode[] = (['fwd', 'rev', 'rand'] as const).flatMap((order) => [0, 1].map((late): Mode => ({ order, late: late === 1 ? 1 : 0 })));

/** Buffers in the order of the parameters, the scalars behind them; the file holds each one's length before its bytes. */
const MAIN = `
static std::vector<std::vector<unsigned char>> read_all(const char* path) {
  std::vector<std::vector<unsigned char>> out;
  FILE* f = fopen(path, "rb");
  for (uint64_t n; fread(&n, 8, 1, f) == 1;) {
    out.emplace_back(n);
    if (n > 0 && fread(out.back().data(), 1, n, f) != n) exit(9);
  }
  fclose(f);
  return out;
}
int main(int argc, char** argv) {
  auto memory = read_all(argv[1]);
  std::vector<uint64_t> arguments;
  for (auto& m : memory) {
    void* p = nullptr;
    if (cudaMalloc(&p, m.size() + 16) != cudaSuccess) return 8;
    cudaMemcpy(p, m.data(), m.size(), cudaMemcpyHostToDevice);
    arguments.push_back(reinterpret_cast<uint64_t>(p));
  }
  const MoecKernel& k = moec_part0[atoi(argv[6])];
  if (arguments.size() != k.arguments) { fprintf(stderr, "%zu buffers for %u arguments\\n", arguments.size(), k.arguments); return 7; }
  CUtensorMap maps[MOEC_MAX_MAPS];
  for (uint32_t i = 0; i < k.map_count; i++) encode(&maps[i], k.maps[i], arguments[k.maps[i].argument], memory[k.maps[i].argument].size());
  MoecLaunch launch{dim3(atoi(argv[3]), atoi(argv[4]), atoi(argv[5])), k.block, k.shared, nullptr, arguments.data(), maps};
  if (k.prepare(k.shared) != cudaSuccess) return 6;
  k.launch(launch);
  FILE* f = fopen(argv[2], "wb");
  for (size_t i = 0; i < memory.size(); i++) {
    cudaMemcpy(memory[i].data(), reinterpret_cast<void*>(arguments[i]), memory[i].size(), cudaMemcpyDeviceToHost);
    fwrite(memory[i].data(), 1, memory[i].size(), f);
  }
  fclose(f);
  return 0;
}
`;

const ENCODE = `
static void encode(CUtensorMap* map, const MoecTensorMap& m, uint64_t at, uint64_t bytes) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
  const cuuint64_t dims[2] = {m.columns, m.rows == 0 ? bytes / (m.columns * 2) : m.rows}, strides[1] = {m.columns * 2};
  const cuuint32_t box[2] = {64, m.box_rows}, steps[2] = {1, 1};
  auto encode_tiled = reinterpret_cast<CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
    const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill)>(entry);
  if (encode_tiled(map, m.element == MOEC_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, reinterpret_cast<void*>(at),
    dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != 0) exit(5);
}
`;

function rowOf(kernel: Kernel, name: string): string {
  const maps = (kernel.tensorMaps ?? []).map((m) => {
    const at = kernel.params.findIndex((p) => p.name === m.param);
    const elem = kernel.params[at]?.elem === 'f16' ? 'MOEC_F16' : 'MOEC_BF16';
    return `MOEC_MAP(${at}, ${m.rows ?? 0}, ${m.cols}, ${m.boxRows}, ${elem})`;
  });
  return `MOEC_KERNEL(${[name, `"${name}"`, kernel.block, launchBytes(kernel), ...maps].join(', ')})`;
}

/** Builds the program of one text. @param change what a test alters in the printed text */
export const buildEmulated = (kernel: Kernel, change: (text: string) => string = (t) => t): string => buildAllEmulated(kernel, [change(emitCuda(kernel))]);

/** Builds one program of several texts of a kernel, which takes a compiler little longer than one: `runEmulated` picks one by its place. */
export function buildAllEmulated(kernel: Kernel, texts: readonly string[]): string {
  const hopper = (kernel.tensorMaps ?? []).length > 0;
  const name = (i: number): string => `${kernel.name}_v${i}`;
  const printed = texts.map((text, i) => text.replace('#pragma once', '').replace(` ${kernel.name}(`, ` ${name(i)}(`));
  const rows = `MOEC_PART(0, ${texts.map((_, i) => rowOf(kernel, name(i))).join(', ')})`;
  const encode = hopper ? ENCODE : 'static void encode(CUtensorMap*, const MoecTensorMap&, uint64_t, uint64_t) {}';
  const source = [hopper ? '#define MOEC_HOPPER 1' : '', '#include "prelude.cuh"', '#include "kernel_table.cuh"', ...printed, rows, encode, MAIN].join('\n');
  const sources = execFileSync('sh', ['-c', 'cat *.h *.cuh'], { cwd: SOURCES, maxBuffer: 1 << 26 }).toString();
  const path = join(CACHE, sha256(source + sources).slice(0, 24));
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const dir = mkdtempSync(join(CACHE, 'build-'));
  try {
    writeFileSync(join(dir, 'kernel.cpp'), source);
    const flags = ['-std=c++17', '-O1', '-ffp-contract=off', '-fno-strict-aliasing', '-I', SOURCES];
    const made = spawnSync('g++', [...flags, '-o', join(dir, 'kernel'), join(dir, 'kernel.cpp')]);
    if (made.status !== 0) throw new Error(`${kernel.name} does not compile:\n${made.stderr.toString().slice(0, 4000)}`);
    renameSync(join(dir, 'kernel'), path);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return path;
}

export interface Launched {
  readonly grid: readonly [number, number, number];
  /** By parameter; what the kernel writes is written back. */
  readonly memory: Readonly<Record<string, TypedArray>>;
  readonly scalars?: Readonly<Partial<Record<ScalarName, number>>>;
}

const bytesOf = (a: TypedArray): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** Runs a built program. @throws Error with the emulator's message where it finds a fault */
export function runEmulated(program: string, kernel: Kernel, { grid, memory, scalars = {} }: Launched, mode: Mode, place = 0): void {
  const arrays = kernel.params.map((p): TypedArray => {
    const found = memory[p.name];
    if (found === undefined) throw new Error(`no memory for parameter ${p.name}`);
    return found;
  });
  if (kernel.scalars.length > 0) arrays.push(Uint32Array.from(kernel.scalars, (s) => scalars[s] ?? 0));
  const dir = mkdtempSync(join(tmpdir(), 'moec-run-'));
  try {
    const parts = arrays.flatMap((a) => [new Uint8Array(BigUint64Array.of(BigInt(a.byteLength)).buffer), bytesOf(a)]);
    writeFileSync(join(dir, 'in'), Buffer.concat(parts));
    const env = { ...process.env, MOEC_EMULATE_ORDER: mode.order === 'rand' ? 'rand:7' : mode.order, MOEC_EMULATE_LATE: String(mode.late) };
    const ran = spawnSync(program, [join(dir, 'in'), join(dir, 'out'), ...[...grid, place].map(String)], { env, timeout: 120_000 });
    if (ran.status !== 0) throw new Error(`emulator: ${ran.stderr.toString().slice(0, 2000) || `status ${ran.status} ${ran.signal}`}`);
    const out = readFileSync(join(dir, 'out'));
    let at = 0;
    for (const a of arrays) {
      bytesOf(a).set(out.subarray(at, at + a.byteLength));
      at += a.byteLength;
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
