/**
 * The values of index expressions at points: every thread of a block, in every iteration of some loops. An
 * expression is worked out for all points at once and only once, whatever number of accesses mention it.
 */
import type { BinOp, Expr, StmtOf } from '../../ir/kernel/types.ts';

/** One value per point (bool: 0 or 1); NaN where it is not known. */
export type Column = Float64Array;

/** Definitions of names that stand for their values. */
export type Definitions = ReadonlyMap<string, Expr>;

/** u32 and bool arithmetic; an unknown operand does not matter where the other one decides (0 && x, 1 || x). */
function apply(op: BinOp, a: number, b: number): number {
  if (Number.isNaN(a) || Number.isNaN(b)) {
    const decides = op === '&&' ? 0 : op === '||' ? 1 : NaN;
    return a === decides || b === decides ? decides : NaN;
  }
  switch (op) {
    case '+': return (a + b) >>> 0;
    case '-': return (a - b) >>> 0;
    case '*': return Math.imul(a, b) >>> 0;
    case '/': return b === 0 ? NaN : Math.floor(a / b);
    case '%': return b === 0 ? NaN : a % b;
    case 'min': return Math.min(a, b);
    case 'max': return Math.max(a, b);
    case '&': return (a & b) >>> 0;
    case '|': return (a | b) >>> 0;
    case '^': return (a ^ b) >>> 0;
    case '<<': return b < 32 ? (a << b) >>> 0 : NaN;
    case '>>': return b < 32 ? a >>> b : NaN;
    case '<': return a < b ? 1 : 0;
    case '<=': return a <= b ? 1 : 0;
    case '>': return a > b ? 1 : 0;
    case '>=': return a >= b ? 1 : 0;
    case '==': return a === b ? 1 : 0;
    case '!=': return a !== b ? 1 : 0;
    case '&&': return a & b;
    case '||': return a | b;
  }
}

export class Points {
  /** Thread of each point. */
  readonly threads: Column;
  readonly #definitions: Definitions;
  /** Of loop variables. */
  readonly #loops: ReadonlyMap<string, Column>;
  readonly #known = new Map<Expr, Column>();
  readonly #unknown: Column;

  constructor(threads: Column, definitions: Definitions, loops: ReadonlyMap<string, Column> = new Map()) {
    this.threads = threads;
    this.#definitions = definitions;
    this.#loops = loops;
    this.#unknown = new Float64Array(threads.length).fill(NaN);
  }

  static ofBlock(block: number, definitions: Definitions): Points {
    return new Points(Float64Array.from({ length: block }, (_, i) => i), definitions);
  }

  /** These points in every iteration of a loop; bounds that are not known count as 0. */
  within(loop: StmtOf<'for'>): Points {
    const from = this.values(loop.from);
    const to = this.values(loop.to);
    const origin: number[] = [];
    const iteration: number[] = [];
    from.forEach((first, p) => {
      const end = to[p] ?? NaN;
      for (let i = Number.isNaN(first) ? 0 : first; i < end; i += loop.step) {
        origin.push(p);
        iteration.push(i);
      }
    });
    const spread = (c: Column): Column => new Float64Array(origin.map((p) => c[p] ?? NaN));
    const loops = new Map([...this.#loops].map(([name, c]) => [name, spread(c)] as const));
    return new Points(spread(this.threads), this.#definitions, loops.set(loop.name, new Float64Array(iteration)));
  }

  values(e: Expr): Column {
    const known = this.#known.get(e);
    if (known !== undefined) return known;
    const made = this.#make(e);
    this.#known.set(e, made);
    return made;
  }

  #make(e: Expr): Column {
    switch (e.k) {
      case 'const':
        return new Float64Array(this.threads.length).fill(e.value);
      case 'builtin':
        return e.id === 'thread' ? this.threads : this.#unknown;
      case 'var': {
        const definition = this.#definitions.get(e.name);
        return this.#loops.get(e.name) ?? (definition === undefined ? this.#unknown : this.values(definition));
      }
      case 'un':
        return e.op === 'not' ? this.values(e.a).map((a) => (Number.isNaN(a) ? a : Number(a === 0))) : this.#unknown;
      case 'bin': {
        if (e.a.ty.elem !== 'u32' && e.a.ty.elem !== 'bool') return this.#unknown;
        const { op } = e;
        const b = this.values(e.b);
        return this.values(e.a).map((a, i) => apply(op, a, b[i] ?? NaN));
      }
      case 'select': {
        const a = this.values(e.a);
        const b = this.values(e.b);
        return this.values(e.cond).map((c, i) => (Number.isNaN(c) ? c : ((c === 0 ? b : a)[i] ?? NaN)));
      }
      default:
        return this.#unknown;
    }
  }
}
