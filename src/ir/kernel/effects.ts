/** What statements do to memory, and under which conditions and loops of their own they do it. */
import { not } from './build.ts';
import type { Buffer, Expr, Stmt, StmtOf } from './types.ts';
import { exprsOf, operands, sameExpr } from './walk.ts';

/** `update` is an atomic read-modify-write. */
export type EffectKind = 'read' | 'write' | 'update';

export interface Effect {
  readonly kind: EffectKind;
  readonly buf: Buffer;
  readonly index: Expr;
  /** A read of the very cell that the same statement stores to. */
  readonly inPlace: boolean;
  /** Conditions that hold where the access happens, outermost first. */
  readonly guards: readonly Expr[];
  /** Loops around the access, outermost first. */
  readonly loops: readonly StmtOf<'for'>[];
}

interface Place {
  readonly guards: readonly Expr[];
  readonly loops: readonly StmtOf<'for'>[];
}

const TOP: Place = { guards: [], loops: [] };

function reads(e: Expr, at: Place, out: Effect[]): void {
  if (e.k === 'bin' && (e.op === '&&' || e.op === '||') && e.ty.lanes === 1) {
    reads(e.a, at, out);
    reads(e.b, { ...at, guards: [...at.guards, e.op === '&&' ? e.a : not(e.a)] }, out);
    return;
  }
  for (const a of operands(e)) reads(a, at, out);
  if (e.k === 'load') out.push({ kind: 'read', buf: e.buf, index: e.index, inPlace: false, ...at });
}

function collect(s: Stmt, at: Place, out: Effect[]): void {
  const inside = (body: readonly Stmt[], place: Place): void => body.forEach((x) => collect(x, place, out));
  const first = out.length;
  if (s.k !== 'for') for (const e of exprsOf(s)) reads(e, at, out);
  switch (s.k) {
    case 'store': {
      for (let i = first; i < out.length; i++) {
        const r = out[i];
        if (r !== undefined && r.buf.name === s.buf.name && sameExpr(r.index, s.index)) out[i] = { ...r, inPlace: true };
      }
      out.push({ kind: 'write', buf: s.buf, index: s.index, inPlace: false, ...at });
      break;
    }
    case 'atomic':
      out.push({ kind: 'update', buf: s.buf, index: s.index, inPlace: false, ...at });
      break;
    case 'if':
      inside(s.then, { ...at, guards: [...at.guards, s.cond] });
      inside(s.else, { ...at, guards: [...at.guards, not(s.cond)] });
      break;
    case 'for': {
      reads(s.from, at, out);
      const loops = [...at.loops, s];
      reads(s.to, { ...at, loops }, out);
      inside(s.body, { guards: at.guards, loops });
      break;
    }
    case 'tile.map':
      inside(s.body, at);
      break;
    default:
      break;
  }
}

/** Every access of a statement and what is nested in it, in text order; `outer` are the loops around the statement. */
export function effectsOf(s: Stmt, outer: readonly StmtOf<'for'>[] = []): readonly Effect[] {
  const out: Effect[] = [];
  collect(s, { ...TOP, loops: outer }, out);
  return out;
}

/** Whether two kinds of access to one cell by different threads need an order between them. */
export const conflicts = (a: EffectKind, b: EffectKind): boolean => a === b ? a === 'write' : true;
