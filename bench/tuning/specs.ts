/** Random small specs as text: mixtures, dense networks, and one-layer models with attention. One seed, one spec. */
import { uniforms } from '../../src/runtime/core/random.ts';

export interface RandomSpec {
  readonly text: string;
  /** For tables. */
  readonly about: string;
  readonly tokens: number;
}

export interface Dice {
  /** In [low, high]. */
  int(low: number, high: number): number;
  pick<A>(list: readonly A[]): A;
  chance(p: number): boolean;
}

export function diceOf(seed: number): Dice {
  const next = uniforms(seed);
  const int = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1));
  return {
    int,
    pick(list) {
      const found = list[int(0, list.length - 1)];
      if (found === undefined) throw new RangeError('nothing to pick from');
      return found;
    },
    chance: (p) => next() < p,
  };
}

const TOKENS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100, 128];
const NETWORKS = ['swiglu', 'swiglu', 'swiglu', 'geglu', 'geglu-tanh', 'reglu', 'mlp relu', 'mlp gelu', 'mlp silu'];

interface Part {
  readonly text: string;
  readonly about: string;
}

function mixture(d: Dice): Part {
  const experts = d.pick([4, 6, 8, 12, 16, 32]);
  const active = d.int(1, Math.min(4, experts));
  const shared = d.pick([0, 0, 1, 2]);
  const network = `${d.pick(NETWORKS)} ${d.pick([32, 64, 96, 128, 160])}`;
  return {
    text: `moe { experts ${experts} of ${network}  active ${active}${shared === 0 ? '' : `  shared ${shared}`}  router softmax top-k }`,
    about: `${experts} of ${network}, active ${active}${shared === 0 ? '' : `, shared ${shared}`}`,
  };
}

function dense(d: Dice): Part {
  const network = `${d.pick(NETWORKS)} ${d.pick([96, 128, 192, 256, 384])}`;
  return { text: `ffn ${network}`, about: `ffn ${network}` };
}

function attention(d: Dice): Part {
  const size = d.pick([16, 32]);
  const heads = d.pick([2, 4, 8]);
  const isGrouped = d.chance(0.5);
  const kv = d.pick([1, heads / 2]);
  const clauses = `heads ${heads} x ${size}${isGrouped ? `  kv ${kv}` : ''}  rope 10000`;
  return { text: `attention ${isGrouped ? 'gqa' : 'mha'} { ${clauses} }`, about: `${isGrouped ? `gqa ${heads}/${kv}` : `mha ${heads}`} x ${size}` };
}

export function randomSpec(seed: number): RandomSpec {
  const d = diceOf(seed);
  const hidden = d.pick([64, 96, 128, 160, 256]);
  const dtype = d.pick(['f32', 'f32', 'f16', 'bf16']);
  const kind = d.pick(['mixture', 'mixture', 'mixture', 'dense', 'model'] as const);
  const ffn = kind === 'dense' || (kind === 'model' && d.chance(0.3)) ? dense(d) : mixture(d);
  const quantised = ffn.text.startsWith('moe') && d.chance(0.35) ? d.pick(['int4', 'int8']) : undefined;
  const storage = `dtype ${dtype}${quantised === undefined ? '' : ` experts ${quantised}`}`;
  const stored = `${dtype}${quantised === undefined ? '' : ` ${quantised}`}`;
  const tokens = d.pick(TOKENS);
  if (kind !== 'model') {
    return { tokens, text: `layer random {\n  hidden ${hidden}  ${storage}\n  ${ffn.text}\n}\n`, about: `${ffn.about}; hidden ${hidden}, ${stored}` };
  }
  const { text, about } = attention(d);
  return {
    tokens,
    text: `model random {\n  vocab 512  hidden ${hidden}  context 1024  depth 1\n  ${storage}\n  ${text}\n  ${ffn.text}\n}\n`,
    about: `${about}; ${ffn.about}; hidden ${hidden}, ${stored}`,
  };
}
