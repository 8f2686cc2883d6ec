/** Random layer specs as text, valid by construction: every axis of the language, sizes that divide nothing. One seed, one spec. */
import { uniforms } from '../../src/runtime/core/random.ts';

export interface RandomLayer {
  readonly seed: number;
  readonly text: string;
  /** Calls to make, with the tokens per sequence of each. */
  readonly calls: readonly { readonly tokens: number; readonly seq: number }[];
}

/** What a seed draws from. */
interface Dice {
  /** In [low, high]. */
  int(low: number, high: number): number;
  pick<A>(list: readonly A[]): A;
  chance(p: number): boolean;
}

function diceOf(seed: number): Dice {
  const next = uniforms(seed);
  const int = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1));
  return {
    int,
    pick(list) {
      const found = list[int(0, list.length - 1)];
      if (found === undefined) throw new Error('nothing to pick from');
      return found;
    },
    chance: (p) => next() < p,
  };
}

const TOKENS = [1, 2, 3, 7, 8, 9, 17, 33];
/** Multiply-adds that one call of the interpreter may take. */
const BUDGET = 1_500_000;

const divisors = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

function network(dice: Dice, width: number): string {
  const kind = dice.pick([
    'swiglu',
    'swiglu',
    'swiglu',
    'geglu',
    'geglu-tanh',
    'reglu',
    'mlp relu',
    'mlp gelu',
    'mlp gelu-tanh',
    'mlp silu',
  ]);
  const clamp =
    kind === 'swiglu' && dice.chance(0.25) ? ` clamp ${dice.pick(['7', '0.5'])} alpha 1.702 offset ${dice.pick(['0', '1'])}` : '';
  return `${kind} ${width}${dice.chance(0.3) ? ' bias' : ''}${clamp}`;
}

function shared(dice: Dice, width: number, unit: number): string {
  if (dice.chance(0.4)) return '';
  const gated = dice.chance(0.4) ? ' gated' : '';
  const plain = `  shared ${dice.int(1, 2)}`;
  return dice.pick([
    `${plain}${gated}`,
    `${plain} of ${network(dice, unit * dice.int(1, (2 * width) / unit + 1))}${gated}`,
    `  shared 3 as ${network(dice, unit * dice.int(1, unit === 1 ? 21 : 3))}${gated}`,
  ]);
}

function groups(dice: Dice, experts: number, active: number): string {
  const counts = divisors(experts).filter((n) => n > 1 && n < experts);
  if (counts.length === 0 || dice.chance(0.5)) return '';
  const count = dice.pick(counts);
  const size = experts / count;
  return ` groups ${count} keep ${dice.int(Math.ceil(active / size), count)} by ${dice.pick(['max', 'top2-sum'])}`;
}

interface Routing {
  readonly active: number | undefined;
  readonly router: string;
  readonly capacity: string;
  /** Whether tokens have to do with each other. */
  readonly coupled: boolean;
}

function topK(dice: Dice, experts: number): Routing {
  const active = dice.pick([1, experts, dice.int(1, experts), dice.int(1, Math.min(8, experts)), dice.int(1, Math.min(8, experts))]);
  const isLimited = dice.chance(0.25);
  const weights = dice.pick(['', '', '', ' weights softmax', ' weights one']);
  const renormalize =
    isLimited || weights !== ''
      ? ''
      : dice.pick(['', ' renormalize', ' renormalize add 1e-20', ' renormalize clamp 1e-12', ' renormalize p 2']);
  const parts = [
    ` ${dice.pick(['softmax', 'softmax', 'sigmoid', 'sqrt-softplus'])}`,
    dice.chance(0.25) ? ' logit-bias' : '',
    dice.chance(0.35) ? ' selection-bias' : '',
    groups(dice, experts, active),
    ' top-k',
    weights,
    dice.chance(0.15) ? ' weights on input' : '',
    renormalize,
    dice.chance(0.3) ? ' scale 2.5' : '',
  ];
  const limit = dice.pick([`capacity ${dice.int(1, 5)}`, `capacity factor ${dice.pick(['0.5', '1', '1.25'])}`, 'capacity factor 1 min 0']);
  const after = dice.pick(['', ' renormalize before', ' renormalize after']);
  return { active, router: parts.join(''), capacity: isLimited ? `  ${limit}${after}` : '', coupled: isLimited };
}

function otherRouting(dice: Dice, experts: number): Routing {
  const kind = dice.pick(['hash', 'hash scored', 'expert-choice', 'sparse-mixer']);
  const plain = { capacity: '', coupled: false };
  if (kind === 'sparse-mixer' && experts >= 2) return { ...plain, active: 2, router: ` sparse-mixer jitter ${dice.pick(['0.01', '0.2'])}` };
  if (kind === 'hash') {
    const limited = dice.chance(0.3) ? { capacity: '  capacity 2', coupled: true } : plain;
    return { ...limited, active: undefined, router: ' hash table t' };
  }
  if (kind === 'hash scored')
    return { ...plain, active: undefined, router: ` ${dice.pick(['sigmoid', 'sqrt-softplus'])} hash table t weights scores` };
  const factor = dice.pick(['0.5', '1', '1.3', '2'].filter((f) => Number(f) <= experts));
  const score = dice.pick(['softmax', 'sigmoid']);
  const router = ` ${score} expert-choice factor ${factor}${dice.chance(0.2) ? ' weights one' : ''}`;
  return { capacity: '', active: undefined, coupled: true, router };
}

/** What experts are stored in beside a dtype, where that is asked for. */
const quantised = (dice: Dice): string => ` experts ${dice.pick(['int4', 'int8'])}${dice.pick(['', ' group 32'])}${dice.pick(['', ' scales f32', ' scales f16'])}`;

/** @param storage `quantised`: experts in int8 or int4, with depths that groups divide */
export function randomLayer(seed: number, storage: 'plain' | 'quantised' = 'plain'): RandomLayer {
  const isQuantised = storage === 'quantised';
  const dice = diceOf(isQuantised ? seed + 1_000_000 : seed);
  const unit = isQuantised ? 32 : 1;
  const hidden = isQuantised ? dice.pick([32, 64, 96, 160]) : dice.pick([dice.int(1, 8), dice.int(1, 70), dice.int(1, 70), 64, 32]);
  const width = isQuantised ? dice.pick([32, 64, 96]) : dice.pick([dice.int(1, 8), dice.int(1, 40), dice.int(1, 40), 32]);
  const experts = isQuantised ? dice.pick([1, 2, dice.int(1, 24), 16]) : dice.pick([1, 2, dice.int(1, 67), dice.int(1, 24), 16, 61, 64]);
  const { active, router, capacity, coupled } = dice.chance(0.72) ? topK(dice, experts) : otherRouting(dice, experts);
  const head = [
    `hidden ${hidden}  vocab 31`,
    isQuantised ? `dtype ${dice.pick(['f32', 'f16', 'bf16'])}${quantised(dice)}` : dice.pick(['', '', 'dtype f16', 'dtype bf16']),
    !coupled && dice.chance(0.15) ? 'deterministic batch' : '',
    dice.pick(['', '', 'norm rms 1e-6', 'norm layer 1e-5', 'norm layer 1e-5 bias']),
    dice.chance(0.3) ? 'residual' : '',
  ].filter((s) => s !== '');
  const moe = `experts ${experts} of ${network(dice, width)}${active === undefined ? '' : `  active ${active}`}${shared(dice, width, unit)}`;
  const text = `layer random_${seed} {\n  ${head.join('  ')}\n  moe {\n    ${moe}\n    router${router}\n  ${capacity}\n  }\n}\n`;

  const perToken = 3 * (active ?? 2) * hidden * width + hidden * experts;
  const possible = TOKENS.filter((t) => t * perToken <= BUDGET || t === 1);
  const few = dice.pick(possible.filter((t) => t <= 8));
  const many = possible.filter((t) => t > 8);
  const tokens = [few, ...(many.length === 0 ? [] : [dice.pick(many)])];
  const calls = tokens.map((t) => ({ tokens: t, seq: coupled && router.includes('expert-choice') === false ? dice.pick(divisors(t)) : t }));
  return { seed, text, calls };
}
