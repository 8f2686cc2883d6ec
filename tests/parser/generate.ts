/** Random specs, derived from the parser's own grammar. */
import type { ISerializedGast } from 'chevrotain';
import fc from 'fast-check';
import { serializedGrammar } from '../../src/parser/grammar.ts';

interface Gast {
  readonly type: string;
  readonly name?: string;
  readonly label?: string;
  readonly definition?: readonly Gast[];
}

/** The same numbers for the same seed. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const NUMBERS = ['0', '1', '2', '8', '64', '102_400', '0.5', '1e-6', '1.25', '-3', '2.5E+3', '10000'];
const NAMES = ['a', 'deepseek-v2.5', 'moe', 'x', '_', '"two words"', '"q\\"uote"', '"日本"', '"\\u00e9"', '"// no comment"', '"{"'];
const GAPS = [
  [' ', ' ', ' ', ' ', '  ', '\n', '\n', '\n', '\n\n', '\n\n\n\n', '\t', '\r\n', ' \n  '],
  [' // note\n', '\n// alone\n', ' /* in */ ', '\n/* over\n   lines */\n', ' //\n'],
].flat();

const rules = new Map<string, Gast>((serializedGrammar as readonly (ISerializedGast & Gast)[]).map((r) => [r.name ?? '', r]));

/** Tokens of a random file. Where `tame`, no clause stands twice in a block and alternatives are not mixed. */
export function tokens(seed: number, tame: boolean): readonly string[] {
  const pick = random(seed);
  const choose = <T>(list: readonly T[]): T => {
    const found = list[pick(list.length)];
    if (found === undefined) throw new Error('nothing to choose from');
    return found;
  };
  const paper = pick(2) === 0;
  const out: string[] = [];
  /** The alternatives of a rule that has one alternation as its body, in random order, each once. */
  const distinct = (rule: Gast | undefined): readonly Gast[] => {
    const left = [...(rule?.definition?.[0]?.definition ?? [])];
    const alternatives: Gast[] = [];
    while (left.length > 0) alternatives.push(...left.splice(pick(left.length), 1));
    let ffn = false;
    const seen = new Set<string>();
    return alternatives.filter((alternative) => {
      const first = alternative.definition?.[0]?.name ?? '';
      if (first === 'Dense' || first === 'Moe') {
        if (ffn) return false;
        ffn = true;
      }
      if (first === (paper ? 'Experts' : 'Segment')) return false;
      const questions: Readonly<Record<string, readonly string[]>> = {
        score: ['softmax', 'sigmoid', 'sqrt-softplus', 'none'],
        select: ['top-k', 'Hash', 'ExpertChoice', 'SparseMixer'],
        style: ['half', 'interleaved'],
        scaling: ['linear', 'Yarn'],
      };
      const question = Object.keys(questions).find((q) => questions[q]?.includes(first)) ?? first;
      if (seen.has(question)) return false;
      seen.add(question);
      return true;
    });
  };
  const emit = (node: Gast): void => {
    const all = (): void => node.definition?.forEach(emit);
    switch (node.type) {
      case 'Terminal': {
        const name = node.name ?? '';
        const names = (quoted: boolean): readonly string[] => NAMES.filter((n) => n.startsWith('"') === quoted);
        const literal =
          name === 'Number'
            ? choose(NUMBERS)
            : name === 'Word'
              ? choose(names(false))
              : name === 'String'
                ? choose(names(true))
                : undefined;
        out.push(literal ?? node.label ?? name);
        break;
      }
      case 'NonTerminal': {
        const rule = rules.get(node.name ?? '');
        if (rule !== undefined) emit(rule);
        break;
      }
      case 'Alternation':
        emit(choose(node.definition ?? []));
        break;
      case 'Option': {
        const first = node.definition?.[0]?.name;
        if (tame && (first === 'K' || first === 'Ks') ? paper : pick(2) === 0) all();
        break;
      }
      case 'Repetition':
      case 'RepetitionMandatory': {
        const least = node.type === 'Repetition' ? 0 : 1;
        const only = node.definition?.length === 1 ? node.definition[0] : undefined;
        const item = only?.type === 'NonTerminal' ? rules.get(only.name ?? '') : undefined;
        if (tame && only !== undefined && item !== undefined && item.name !== 'Unit' && item.definition?.[0]?.type === 'Alternation') {
          const clauses = distinct(item);
          const count = Math.max(least, pick(clauses.length + 1));
          clauses.slice(0, count).forEach(emit);
          break;
        }
        const times = tame && item?.name !== 'Unit' ? least : least + pick(4);
        for (let i = 0; i < times; i++) all();
        break;
      }
      default:
        all();
    }
  };
  const file = rules.get('File');
  if (file !== undefined) while (out.length === 0) emit(file);
  return out;
}

/** The tokens with random white space and comments. */
export function dress(list: readonly string[], seed: number): string {
  const pick = random(seed);
  const calm = pick(3) === 0 ? 6 : GAPS.length;
  return list.map((t) => t + (GAPS[pick(calm)] ?? ' ')).join('');
}

export const spec = (tame: boolean): fc.Arbitrary<string> => fc.tuple(fc.nat(), fc.nat()).map(([a, b]) => dress(tokens(a, tame), b));
