/** `moec fit FILE` */
import { fit, fitText } from '../../driver/analysis.ts';
import { LIMIT_PROFILES } from '../../driver/profiles.ts';
import { EXIT, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { positiveInteger } from '../numbers.ts';

interface Options extends CommonOptions {
  readonly limits?: string;
  readonly tokens?: string;
  readonly unit?: string;
}

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const tokens = options.tokens === undefined ? undefined : positiveInteger(options.tokens, '--tokens');
  const profiles = LIMIT_PROFILES.filter((p) => options.limits === undefined || p.profile === options.limits);
  const reports = profiles.map((p) => {
    const limits = { name: p.profile, maxBindingBytes: p.maxBindingBytes, maxBufferBytes: p.maxBufferBytes };
    return tokens === undefined ? fit(spec, limits) : fit(spec, limits, tokens);
  });
  if (io.json) io.emit({ name: spec.name, profiles: reports });
  else io.out(reports.map(fitText).join('\n\n'));
  return reports.some((r) => r.verdict !== 'too-large') ? EXIT.ok : EXIT.diagnostics;
}
