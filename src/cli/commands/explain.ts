/** `moec explain FILE`: what fused and what did not; `moec explain CODE`: the page of a diagnostic. */
import { codePage, suggest, codes } from '../../diagnostics/index.ts';
import { explainDefaults } from '../../driver/analysis.ts';
import { explainFusion } from '../../driver/compile.ts';
import { renderFusionReport } from '../../driver/print.ts';
import type { TargetName } from '../../driver/profiles.ts';
import { CommandError, EXIT, makeIo, type CommonOptions, type Io } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { integerList } from '../numbers.ts';
import { disabledPasses } from '../passes-option.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';

interface Options extends CommonOptions, DeviceChoice {
  readonly target?: TargetName;
  readonly tokens?: string;
  readonly unit?: string;
}

function explainCode(io: Io, code: string): number {
  const page = codePage(code);
  if (page === undefined) {
    const near = suggest(code.toUpperCase(), Object.keys(codes));
    throw new CommandError(EXIT.usage, `there is no diagnostic ${code.toUpperCase()}`, near.length === 0 ? {} : { fix: `did you mean ${near.join(' or ')}?` });
  }
  if (io.json) io.emit(page);
  else io.out(`${page.code}: ${page.title}\n\n${page.explain}`);
  return EXIT.ok;
}

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const subject = args[0] ?? '';
  if (/^moe\d+$/i.test(subject)) return explainCode(io, subject);
  const { spec, file } = loadSpec(io, subject, options.unit);
  const caps = capsOf(options.target ?? 'webgpu', options);
  const report = explainFusion(spec, { caps, disabled: disabledPasses() }, options.tokens === undefined ? undefined : integerList(options.tokens, '--tokens'));
  const defaults = file.front.ast === undefined ? [] : explainDefaults(file.front.ast, spec);
  if (io.json) {
    io.emit({ name: spec.name, defaults, fusion: report });
    return EXIT.ok;
  }
  if (defaults.length > 0) {
    const width = Math.max(...defaults.map((d) => d.what.length));
    io.out(['not written, and taken as', ...defaults.map((d) => `  ${d.what.padEnd(width)}  ${d.value}  (${d.why})`), ''].join('\n'));
  }
  io.out(renderFusionReport(report));
  return EXIT.ok;
}
