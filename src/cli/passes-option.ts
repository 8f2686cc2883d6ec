/** `--no-PASS`: passes a user switches off. Commander knows no open set of flags, so they are read here. */
import { PASS_NAMES } from '../driver/compile.ts';
import { CommandError, EXIT } from './io.ts';

/** The passes named by `--no-…` on this command line; any other unknown option is a usage error. */
export function disabledPasses(argv: readonly string[] = process.argv.slice(2), known: ReadonlySet<string> = KNOWN): ReadonlySet<string> {
  const disabled = new Set<string>();
  for (const arg of argv) {
    if (arg === '--') break;
    if (!arg.startsWith('--no-')) {
      const name = arg.split('=')[0] ?? '';
      if (arg.startsWith('--') && !known.has(name)) {
        throw new CommandError(EXIT.usage, `unknown option ${JSON.stringify(name)}`, { fix: 'add --help to see the options' });
      }
      continue;
    }
    const name = arg.slice(5);
    if (!PASS_NAMES.includes(name)) {
      throw new CommandError(EXIT.usage, `there is no pass ${JSON.stringify(name)}`, { fix: `--no- takes one of ${PASS_NAMES.join(', ')}` });
    }
    disabled.add(name);
  }
  return disabled;
}

/** The declared long options of the commands that take `--no-PASS`. */
const KNOWN: ReadonlySet<string> = new Set(
  'json verbose target out weights limits unit input output trace tokens stage after bucket help'.split(' ').map((o) => `--${o}`),
);
