/** `moec analyze FILE` */
import { analyze, analyzeText, defaultTokens } from '../../driver/analysis.ts';
import { EXIT, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { positiveInteger } from '../numbers.ts';

interface Options extends CommonOptions {
  readonly tokens?: string;
  readonly unit?: string;
}

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const tokens = options.tokens === undefined ? defaultTokens(spec) : positiveInteger(options.tokens, '--tokens');
  const analysis = analyze(spec, tokens);
  if (io.json) io.emit(analysis);
  else io.out(analyzeText(analysis));
  return EXIT.ok;
}
