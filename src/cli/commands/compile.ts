/** `moec compile FILE --target webgpu --out DIR` */
import { shortBytes } from '../../driver/analysis.ts';
import { buildPackage } from '../../driver/package.ts';
import { requireWeights } from '../../runtime/core/weights.ts';
import { openPath } from '../../runtime/node/files.ts';
import { CommandError, EXIT, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { disabledPasses } from '../passes-option.ts';
import { profileOf } from '../profiles.ts';
import { packageSources } from '../runtime-files.ts';
import { writePackage } from '../write-package.ts';

interface Options extends CommonOptions {
  readonly target: 'webgpu' | 'cuda' | 'all';
  readonly out?: string;
  readonly weights?: string;
  readonly limits: string;
  readonly unit?: string;
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const began = performance.now();
  const disabled = disabledPasses();
  if (options.out === undefined) throw new CommandError(EXIT.usage, '--out is missing', { fix: 'moec compile FILE --out DIR' });
  if (options.target !== 'webgpu') {
    throw new CommandError(EXIT.usage, 'this version compiles for webgpu only', { fix: '--target webgpu' });
  }
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const built = buildPackage(spec, { caps: profileOf(options.limits), disabled }, packageSources());
  const { manifest } = built.compiled;
  if (options.weights !== undefined) {
    const set = await openPath(options.weights);
    requireWeights(manifest.sections, manifest.sequence, set);
    await set.close();
  }
  await writePackage(options.out, built.files);
  const ms = Math.round(performance.now() - began);
  const bytes = [...built.files.values()].reduce((n, f) => n + (typeof f === 'string' ? Buffer.byteLength(f) : f.length), 0);
  const facts = {
    out: options.out,
    name: manifest.model.name,
    kernels: manifest.kernels.length,
    files: built.files.size,
    bytes,
    weightBytes: manifest.limits.weightBytes,
    goldenTwin: built.twin,
    milliseconds: ms,
  };
  if (io.json) io.emit(facts);
  else {
    io.say(`${options.out}: ${facts.kernels} kernels, ${facts.files} files, ${shortBytes(bytes)}; weights on the device ${shortBytes(facts.weightBytes)}; ${ms} ms`);
    io.say(`next: moec verify ${options.out}`);
  }
  return EXIT.ok;
}
