/**
 * moe.capacity: drops slots beyond an expert's capacity within a sequence (GShard, Lepikhin et al. 2020, Alg. 1;
 * Switch, Fedus et al. 2021): all first choices before any second, in token order; what is dropped counts too.
 *
 * One block a sequence, experts spread over its threads: each walks the sequence's slots in that order.
 * Operands: `weights`, `ids`; results `weightsOut`, `idsOut`.
 */
import { ceilDivSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { DROPPED, F32, define, globalBuffer, inLine, launch, line, powerOfTwo, wantWhole } from './common.ts';
import { mulRatio, ratioOver } from './ratio.ts';
import { divideOrZero } from './route-weights.ts';

export interface CapacityProblem {
  readonly experts: number;
  readonly slots: number;
  /** Slots an expert takes of a sequence: a number, or max(min, floor(factor · slots · seq / experts)). */
  readonly limit:
    | { readonly kind: 'tokens'; readonly tokens: number }
    | { readonly kind: 'factor'; readonly factor: number; readonly min: number };
  readonly renormalize: 'before' | 'after' | 'none';
}

export interface CapacitySchedule {
  readonly block: number;
}

/** Binds the capacity of an expert. */
function allowedSlots(stmts: Stmt[], p: CapacityProblem): Expr {
  if (p.limit.kind === 'tokens') return b.u32(p.limit.tokens);
  const share = mulRatio(stmts, 'share', b.mul(b.scalar('seq'), b.u32(p.slots)), ratioOver(p.limit.factor, p.experts));
  return define(stmts, 'allowed', b.max(share, b.u32(p.limit.min)));
}

export function capacity(p: CapacityProblem, schedule: CapacitySchedule | undefined, caps: Capabilities): Launch {
  wantWhole('capacity', { experts: p.experts, slots: p.slots });
  if (p.limit.kind === 'tokens') wantWhole('capacity', { tokens: p.limit.tokens }, 0);
  else wantWhole('capacity', { min: p.limit.min }, 0);
  const { block } = schedule ?? { block: Math.min(256, caps.maxThreadsPerBlock, Math.max(32, powerOfTwo(p.experts))) };
  const weights = globalBuffer('weights', 'f32');
  const ids = globalBuffer('ids', 'u32');
  const weightsOut = globalBuffer('weightsOut', 'f32');
  const idsOut = globalBuffer('idsOut', 'u32');
  const l = line(ceilDivSize('T', 'seq'), caps);
  const head: Stmt[] = [];
  const sequence = define(head, 'sequence', l.index);
  const total = b.ceilDiv(b.scalar('T'), b.scalar('seq'));
  const body: Stmt[] = [];
  const allowed = allowedSlots(body, p);
  const start = define(body, 'start', b.mul(sequence, b.scalar('seq')));
  const tokens = define(body, 'tokens', b.min(b.scalar('seq'), b.sub(b.scalar('T'), start)));
  const slots = b.u32(p.slots);

  /** Binds Σ of a token's weights in `of`, in slot order. */
  const sumOf = (stmts: Stmt[], of: typeof weights, token: Expr): Expr => {
    stmts.push(
      b.var_('sum', b.f32(0)),
      b.for_('sum_s', b.u32(0), slots, 1, (s) => [
        b.assign('sum', b.add(b.variable('sum', F32), b.load(of, b.add(b.mul(token, slots), s)))),
      ]),
    );
    return b.variable('sum', F32);
  };
  const weightAt = (stmts: Stmt[], token: Expr, at: Expr): Expr =>
    p.renormalize === 'before' ? divideOrZero(b.load(weights, at), sumOf(stmts, weights, token)) : b.load(weights, at);

  body.push(
    b.for_('expert', b.thread, b.u32(p.experts), block, (expert) => [
      b.var_('position', b.u32(0)),
      b.for_('s', b.u32(0), slots, 1, (s) => [
        b.for_('i', b.u32(0), tokens, 1, (i) => {
          const stmts: Stmt[] = [];
          const token = define(stmts, 'token', b.add(start, i));
          const at = define(stmts, 'at', b.add(b.mul(token, slots), s));
          const inner: Stmt[] = [];
          const kept = define(inner, 'kept', b.lt(b.variable('position'), allowed));
          const weight = define(inner, 'weight', weightAt(inner, token, at));
          inner.push(
            b.assign('position', b.add(b.variable('position'), b.u32(1))),
            b.store(idsOut, at, b.select(kept, expert, b.u32(DROPPED))),
            b.store(weightsOut, at, b.select(kept, weight, b.f32(0))),
          );
          return [...stmts, b.if_(b.eq(b.load(ids, at), expert), inner)];
        }),
      ]),
    ]),
  );
  // Slots that were not used in the first place stay as they are.
  body.push(
    b.for_('n', b.thread, b.mul(tokens, slots), block, (n) => {
      const stmts: Stmt[] = [];
      const at = define(stmts, 'unused_at', b.add(b.mul(start, slots), n));
      const inner: Stmt[] = [];
      const weight = weightAt(inner, b.div(at, slots), at);
      inner.push(b.store(idsOut, at, b.u32(DROPPED)), b.store(weightsOut, at, weight));
      return [...stmts, b.if_(b.ge(b.load(ids, at), b.u32(p.experts)), inner)];
    }),
  );
  if (p.renormalize === 'after') {
    body.push(
      b.for_('own', b.thread, tokens, block, (i) => {
        const stmts: Stmt[] = [];
        const token = define(stmts, 'own_token', b.add(start, i));
        const sum = sumOf(stmts, weightsOut, token);
        stmts.push(
          b.for_('own_s', b.u32(0), slots, 1, (s) => {
            const inner: Stmt[] = [];
            const at = define(inner, 'own_at', b.add(b.mul(token, slots), s));
            return [...inner, b.store(weightsOut, at, divideOrZero(b.load(weightsOut, at), sum))];
          }),
        );
        return stmts;
      }),
    );
  }
  return launch({
    name: `capacity_${p.experts}x${p.slots}`,
    family: 'capacity',
    params: [
      ['weights', weights],
      ['ids', ids],
      ['weightsOut', weightsOut],
      ['idsOut', idsOut],
    ],
    scalars: ['T', 'seq'],
    block,
    body: [...head, ...inLine(l, sequence, total, body)],
    schedule: { block },
    grid: l.grid,
  });
}
