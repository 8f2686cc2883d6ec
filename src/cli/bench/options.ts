/** What the command line asks of a benchmark, checked before anything is compiled. */
import { parseRouting, type Routing, ROUTING_WORDS } from '../../driver/bench/choices.ts';
import type { Spec } from '../../driver/analysis.ts';
import { CONTESTANT_WORDS, type Contestant, contestants } from '../../driver/variants.ts';
import { CommandError, EXIT } from '../io.ts';
import { integerList } from '../numbers.ts';

const words = (text: string, option: string): readonly string[] => {
  const all = text.split(',').map((w) => w.trim());
  if (all.includes('')) throw new CommandError(EXIT.usage, `${option} has an empty word in ${JSON.stringify(text)}`, { fix: `separate words by single commas: ${option} a,b` });
  return [...new Set(all)];
};

/** Contestants beside the spec itself, each once. */
export function parseAgainst(text: string, spec: Spec): readonly Contestant[] {
  const found = (text.trim() === '' ? [] : words(text, '--against')).flatMap((word) => {
    const made = contestants(spec, word);
    if (made === undefined) throw new CommandError(EXIT.usage, `nothing called ${JSON.stringify(word)} can run beside it`, { fix: CONTESTANT_WORDS });
    return made;
  });
  return found.filter((c, i) => found.findIndex((d) => d.name === c.name) === i);
}

/** @throws CommandError where the spec has no router of its own to steer */
export function parseRoutings(text: string | undefined, spec: Spec): readonly Routing[] {
  if (text === undefined) return [];
  const routings = words(text, '--routing').map((word) => {
    const routing = parseRouting(word);
    if (routing === undefined) throw new CommandError(EXIT.usage, `there is no routing ${JSON.stringify(word)}`, { fix: `one of ${ROUTING_WORDS}` });
    return routing;
  });
  if (spec.kind === 'model') {
    throw new CommandError(EXIT.usage, `--routing steers the router of a layer alone, and ${spec.name} is a model: its layers route what the layers before them give`, {
      fix: 'write one of its layers as a `layer` of its own and measure that',
    });
  }
  if (spec.ffn.kind !== 'moe') throw new CommandError(EXIT.usage, `--routing: ${spec.name} has no router`, { fix: 'leave --routing out' });
  if (spec.ffn.router.select.kind === 'expert-choice' && routings.some((r) => r.kind !== 'random')) {
    throw new CommandError(EXIT.usage, `--routing: the experts of ${spec.name} choose their tokens, each the same number, whatever the input`, { fix: 'leave --routing out' });
  }
  return routings;
}

export function parseTokens(text: string, spec: Spec): readonly number[] {
  const tokens = [...new Set(integerList(text, '--tokens'))];
  const most = Math.max(...tokens);
  if (spec.kind === 'model' && most > spec.context) {
    throw new CommandError(EXIT.usage, `--tokens: ${most} tokens are more than the context of ${spec.name}, ${spec.context}`, { fix: `at most ${spec.context} tokens, or a larger \`context\` in the spec` });
  }
  return tokens;
}
