/**
 * What NVIDIA's compiler makes of every example: build time, registers, spills, shared memory. Needs nvcc and no GPU.
 * Writes bench/results/ptxas.md; with words, only of the examples whose path holds one of them, and shows them:
 *
 *   npm run build && npx tsc -p bench && node .moec/bench/ptxas.js [WORD...]
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type KernelUse, readPtxasLog } from './ptxas-log.ts';

const OUT = 'bench/results/ptxas.md';
const ARCHITECTURES = ['sm_80', 'sm_90a'];
const LIMIT_SECONDS = 60;

interface Manifest {
  readonly kernels: readonly { readonly name: string; readonly sharedBytes: number }[];
}

/** Seconds by the clock, and of all processors. */
interface Seconds {
  readonly wall: number;
  readonly cpu: number;
}

interface Built {
  readonly kernels: number;
  readonly compile: Seconds;
  readonly build: Seconds;
  readonly uses: readonly KernelUse[];
  readonly sharedBytes: number;
}

/** Runs a command to its end; bash knows what all of its processes used. @throws Error with what it said where it fails */
function run(command: string, args: readonly string[]): Seconds {
  const began = performance.now();
  const script = 'TIMEFORMAT="seconds of CPU: %U %S"; time "$@"';
  const { status, stdout, stderr, error } = spawnSync('bash', ['-c', script, 'bash', command, ...args], { encoding: 'utf8' });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${basename(command)} ${args.join(' ')} ends with ${status}:\n${stdout}${stderr}`.slice(0, 2000));
  const [, user = 'NaN', system = 'NaN'] = /seconds of CPU: ([\d.]+) ([\d.]+)\s*$/.exec(stderr) ?? [];
  return { wall: (performance.now() - began) / 1000, cpu: Number(user) + Number(system) };
}

/** Compiles a spec and builds its library, cold, with a compiler that also tells what it used. */
function build(spec: string, arch: string): Built {
  const directory = mkdtempSync(join(tmpdir(), 'moec-ptxas-'));
  try {
    const packaged = join(directory, 'package');
    const log = join(directory, 'ptxas.log');
    const nvcc = join(directory, 'nvcc');
    // What it says goes to the log and on: an error is still the build's to tell.
    writeFileSync(nvcc, `#!/bin/sh\nout=$(mktemp)\nnvcc -Xptxas=-v "$@" 2>"$out"\nstatus=$?\ncat "$out" >>"${log}"\ncat "$out" >&2\nrm -f "$out"\nexit $status\n`);
    chmodSync(nvcc, 0o755);
    writeFileSync(log, '');
    const compile = run(process.execPath, ['dist/cli/main.js', 'compile', spec, '--target', 'cuda', '--arch', arch, '--skip-build', '--out', packaged]);
    // The scaled-down twin that carries the golden vectors is a program of its own: it is not what this measures.
    rmSync(join(packaged, 'golden'), { recursive: true, force: true });
    const built = run(process.execPath, [join(packaged, 'cuda/build.js'), '--nvcc', nvcc]);
    const { kernels } = JSON.parse(readFileSync(join(packaged, 'manifest.json'), 'utf8')) as Manifest;
    const uses = readPtxasLog(readFileSync(log, 'utf8'));
    return { kernels: kernels.length, compile, build: built, uses, sharedBytes: Math.max(0, ...kernels.map((k) => k.sharedBytes)) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const spilled = (u: KernelUse): number => u.spillStores + u.spillLoads;
const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), 0);

function rowOf(spec: string, arch: string): { readonly key: string; readonly cells: readonly string[]; readonly spills: readonly string[]; readonly seconds: number } {
  try {
    const b = build(spec, arch);
    const spilling = b.uses.filter((u) => spilled(u) > 0);
    const nameOf = (u: KernelUse): string => `\`${u.name}\`${u.arch === arch ? '' : ` (${u.arch})`}`;
    const cells = [
      spec.slice('examples/'.length), arch, String(b.kernels), b.compile.wall.toFixed(1), b.compile.cpu.toFixed(1), b.build.wall.toFixed(1), b.build.cpu.toFixed(1), String(most(b.uses.map((u) => u.registers))),
      String(b.uses.reduce((n, u) => n + spilled(u), 0)), (b.sharedBytes / 1024).toFixed(1), [...new Set(spilling.map(nameOf))].join(', '),
    ];
    const spills = spilling.map((u) => `- ${spec.slice('examples/'.length)}, ${arch}: ${nameOf(u)}: ${u.registers} registers, ${u.spillStores} bytes stored, ${u.spillLoads} loaded`);
    return { key: `${spec} ${arch}`, cells, spills, seconds: b.compile.wall + b.build.wall };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${why}\n`);
    return { key: `${spec} ${arch}`, cells: [spec.slice('examples/'.length), arch, 'fails', '', '', '', '', '', '', '', why.split('\n')[1]?.slice(0, 120) ?? ''], spills: [], seconds: 0 };
  }
}

const words = process.argv.slice(2);
if (!existsSync('dist/cli/main.js')) throw new Error('dist/ is missing: npm run build');
const version = /release [^,]+/.exec(spawnSync('nvcc', ['--version'], { encoding: 'utf8' }).stdout)?.[0];
if (version === undefined) throw new Error('nvcc is not on the PATH');
const specs = readdirSync('examples', { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.moe')).sort().map((f) => `examples/${f}`);
const chosen = specs.filter((f) => words.length === 0 || words.some((w) => f.includes(w)));
const load = loadavg()[0] ?? 0;
const began = performance.now();

const COLUMNS = ['spec', 'arch', 'kernels', 'moec s', 'CPU s', 'nvcc s', 'CPU s', 'most registers', 'spill bytes', 'most shared KiB', 'kernels that spill'];
const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
const rows: ReturnType<typeof rowOf>[] = [];

/** The page of the rows so far. */
function page(): string {
  const spills = rows.flatMap((r) => r.spills);
  const slow = rows.filter((r) => r.seconds > LIMIT_SECONDS).map((r) => `${r.cells[0]} for ${r.cells[1]}`);
  const missing = chosen.length * ARCHITECTURES.length - rows.length;
  return `# The examples through nvcc

Made by \`npm run build && npx tsc -p bench && node .moec/bench/ptxas.js\`; every row is measured, one build at a time, each cold. *moec*: from
the spec to a package. *nvcc*: \`node cuda/build.js\` in it, its parts side by side; *CPU*: the same over all cores, which other load on the
machine changes less. *Spill bytes*: stored and loaded, per thread, over all kernels. A library for sm_80 also holds machine code for sm_90;
registers and spills are those of both.

nvcc ${version ?? ''}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, load average ${load.toFixed(1)} when it began, ${((performance.now() - began) / 60_000).toFixed(0)} minutes in all.${missing === 0 ? '' : ` Not finished: ${missing} rows are missing.`}
${slow.length === 0 ? `No example takes longer than ${LIMIT_SECONDS} s.` : `Longer than ${LIMIT_SECONDS} s by the clock, moec and nvcc together: ${slow.join(', ')}.`}

${[COLUMNS, COLUMNS.map((_, i) => (i < 2 || i === COLUMNS.length - 1 ? '---' : '---:')), ...rows.map((r) => r.cells)].map(line).join('\n')}

${spills.length === 0 ? 'No kernel spills.' : `Kernels that spill:\n\n${spills.join('\n')}`}
`;
}

for (const arch of [...ARCHITECTURES].reverse()) {
  for (const spec of chosen) {
    const row = rowOf(spec, arch);
    rows.push(row);
    rows.sort((x, y) => (x.key < y.key ? -1 : 1));
    process.stdout.write(`${row.cells.join('  ')}\n`);
    if (words.length === 0) writeFileSync(OUT, page());
  }
}
process.stdout.write(words.length === 0 ? `wrote ${OUT}\n` : page());
