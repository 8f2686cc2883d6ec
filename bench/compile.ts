/**
 * What compiling the examples costs. Writes bench/results/compile.md:
 *
 *   npm run build && npx tsc -p bench && node .moec/bench/compile.js
 */
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { compileCost } from './measure.ts';

const RUNS = 3;
const OUT = 'bench/results/compile.md';
const COLUMNS = ['spec', 'layers', 'sections', 'kernels', 'texts', 'manifest KiB', 'start ms', 'compile ms', 'CPU ms', 'peak RSS MiB'];

const specs = readdirSync('examples', { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.moe')).sort();
const load = loadavg()[0] ?? 0;
const rows = specs.map((file) => {
  const c = compileCost('dist', readFileSync(join('examples', file), 'utf8'), RUNS);
  const numbers = [c.layers, c.sections, c.kernels, c.texts, c.manifestBytes / 1024, c.startMs, c.wallMs, c.cpuMs, c.rssMiB];
  const row = [file, ...numbers.map((n) => n.toFixed(0))];
  process.stdout.write(`${row.join('  ')}\n`);
  return row;
});

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
writeFileSync(
  OUT,
  `# Cost of compiling the examples

Made by \`npm run build && npx tsc -p bench && node .moec/bench/compile.js\`; every row is measured.
Least of ${RUNS} cold processes each. *start*: loading the compiler and reading the spec. *compile*: from the spec to kernel texts and
manifest, both buckets, wall time and CPU time of all threads of the process (the JavaScript engine's own compiler included).

Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, load average ${load.toFixed(1)} when it began.

${[COLUMNS, COLUMNS.map((_, i) => (i === 0 ? '---' : '---:')), ...rows].map(line).join('\n')}
`,
);
process.stdout.write(`wrote ${OUT}\n`);
