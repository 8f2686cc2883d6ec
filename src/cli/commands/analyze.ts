/** `moec analyze FILE` */
import { analyze, analyzeText, defaultTokens } from '../../model/index.ts';
import { CommandError, EXIT, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';

interface Options extends CommonOptions {
  readonly tokens?: string;
  readonly unit?: string;
}

/** A positive whole number of a command-line option. */
export function positiveInteger(text: string, option: string): number {
  const n = Number(text);
  if (!/^\d+$/.test(text) || n < 1 || !Number.isSafeInteger(n)) {
    throw new CommandError(EXIT.usage, `${option} takes a positive whole number, not ${JSON.stringify(text)}`);
  }
  return n;
}

/** `1,8,512` */
export const integerList = (text: string, option: string): readonly number[] => text.split(',').map((t) => positiveInteger(t.trim(), option));

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const tokens = options.tokens === undefined ? defaultTokens(spec) : positiveInteger(options.tokens, '--tokens');
  const analysis = analyze(spec, tokens);
  if (io.json) io.emit(analysis);
  else io.out(analyzeText(analysis));
  return EXIT.ok;
}
