/**
 * Runs the golden vectors of packages on this device, as a user would, and says how each went:
 *
 *   node verify.js PACKAGE... [--results FILE]
 */
import { basename, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { VerifyReport } from '../../src/runtime/core/verify.ts';
import { firstLine, readOptions, rowWriter } from './rows.ts';

interface Package {
  verify(): Promise<VerifyReport>;
}

const { words, options } = readOptions(process.argv.slice(2));
const write = rowWriter(options.get('results'), 'bench/gpu/run.sh conformance');

async function verdict(directory: string): Promise<{ readonly ok: boolean; readonly detail: string }> {
  try {
    const module = (await import(pathToFileURL(join(resolve(directory), 'index.js')).href)) as Package;
    const report = await module.verify();
    const vectors = report.vectors.map((v) => `${v.name}: NMSE ${v.observed.nmse.toExponential(1)} of ${v.allowed.nmse}, ${v.wrongIds} wrong ids`);
    return { ok: report.ok, detail: `${report.device}${report.twin ? ', twin' : ''}: ${vectors.join('; ')}` };
  } catch (error) {
    return { ok: false, detail: firstLine(error) };
  }
}

let good = 0;
for (const directory of words) {
  const { ok, detail } = await verdict(directory);
  if (ok) good++;
  else process.stdout.write(`${basename(directory)}: ${detail}\n`);
  write({ kind: 'check', stage: 'golden vectors', name: basename(directory), ok, detail });
}
process.stdout.write(`${good} of ${words.length} packages verified\n`);
process.exitCode = good === words.length ? 0 : 4;
