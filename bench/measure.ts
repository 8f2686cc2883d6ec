/** Compiles specs in processes of their own, so that each is measured cold and its memory is its alone. */
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

export interface CompileCost {
  /** Sections of the program: one per distinct layer kind, the embedding and the head. */
  readonly sections: number;
  readonly layers: number;
  readonly kernels: number;
  /** Kernel texts, variants counted. */
  readonly texts: number;
  /** Of the manifest as JSON, without the digests of the package's files. */
  readonly manifestBytes: number;
  /** Loading the compiler, and reading the spec. */
  readonly startMs: number;
  /** From the spec to kernel texts and manifest. */
  readonly wallMs: number;
  /** The same, all threads of the process. */
  readonly cpuMs: number;
  /** Peak resident memory of the whole process. */
  readonly rssMiB: number;
}

/** What the child runs; reads the spec from stdin. */
const child = (dist: string): string => `
import { readFileSync } from 'node:fs';
const { readSpecs } = await import(${JSON.stringify(pathToFileURL(join(dist, 'driver/frontend.js')).href)});
const { compileSpec } = await import(${JSON.stringify(pathToFileURL(join(dist, 'driver/compile.js')).href)});
const { specs: [spec], diagnostics } = readSpecs(readFileSync(0, 'utf8'), 'bench.moe');
const wrong = diagnostics.filter((d) => d.severity === 'error').map((d) => d.message);
if (wrong.length > 0) throw new Error(wrong.join('; '));
const startMs = performance.now();
const before = process.cpuUsage();
const { kernels, manifest, texts } = compileSpec(spec);
const { length: manifestBytes } = JSON.stringify(manifest);
const { user, system } = process.cpuUsage(before);
console.log(JSON.stringify({
  sections: manifest.sections.length, layers: manifest.model.layers, kernels: kernels.kernels.length, texts: texts.size, manifestBytes,
  startMs, wallMs: performance.now() - startMs, cpuMs: (user + system) / 1000, rssMiB: process.resourceUsage().maxRSS / 1024,
}));`;

/**
 * The least of several cold compilations of the first unit of a spec.
 * @param dist the built compiler
 * @throws Error where the compiler does
 */
export function compileCost(dist: string, text: string, runs: number): CompileCost {
  const costs = Array.from({ length: runs }, (): CompileCost => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', child(resolve(dist))], { input: text, encoding: 'utf8' });
    if (status !== 0) throw new Error(`the compilation fails:\n${stderr}`);
    return JSON.parse(stdout) as CompileCost;
  });
  const [first] = costs;
  if (first === undefined) throw new RangeError('nothing to measure in 0 runs');
  const least = (of: (c: CompileCost) => number): number => Math.min(...costs.map(of));
  return {
    ...first,
    startMs: least((c) => c.startMs),
    wallMs: least((c) => c.wallMs),
    cpuMs: least((c) => c.cpuMs),
    rssMiB: least((c) => c.rssMiB),
  };
}
