/** `--no-PASS`: passes a user switches off. Commander knows no open set of flags, so they are read here. */
import { suggest } from '../diagnostics/suggest.ts';
import { PASS_NAMES } from '../driver/compile.ts';
import { CommandError, EXIT } from './io.ts';

/** The passes named by `--no-…` before any `--`. */
export function disabledPasses(argv: readonly string[] = process.argv.slice(2)): ReadonlySet<string> {
  const end = argv.indexOf('--');
  const options = end < 0 ? argv : argv.slice(0, end);
  return new Set(options.filter((arg) => arg.startsWith('--no-')).map((arg) => requirePass(arg.slice(5))));
}

const didYouMean = (near: readonly string[], otherwise: string): string => (near[0] === undefined ? otherwise : `did you mean ${near[0]}?`);

/** `name`, if there is such a pass. @throws CommandError */
export function requirePass(name: string, others: readonly string[] = []): string {
  const names = [...others, ...PASS_NAMES];
  if (names.includes(name)) return name;
  throw new CommandError(EXIT.usage, `there is no pass ${JSON.stringify(name)}`, { fix: didYouMean(suggest(name, names), `one of ${names.join(', ')}`) });
}

/**
 * The one operand of a command that takes `--no-PASS`, where `given` still holds everything that commander does not know.
 * @param known the command's declared long options
 */
export function withoutPasses(given: readonly string[], known: readonly string[]): readonly string[] {
  const operands: string[] = [];
  for (const arg of given) {
    if (arg === '-' || !arg.startsWith('-')) operands.push(arg);
    else if (arg.startsWith('--no-')) requirePass(arg.slice(5));
    else throw new CommandError(EXIT.usage, `unknown option ${JSON.stringify(arg)}`, { fix: didYouMean(suggest(arg, known), 'add --help to see the options') });
  }
  if (operands.length > 1) throw new CommandError(EXIT.usage, `one file is expected, not ${operands.length}: ${operands.map((o) => JSON.stringify(o)).join(', ')}`);
  return operands;
}
