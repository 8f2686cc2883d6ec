/** Joins what the parts of attention by tiles leave of a row: the sums of weights and of weighted values, each to one maximum. */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { TINY, leastTop, sinkTop } from './attention-problem.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { define, elementwise, elementwiseSchedule, globalBuffer, lanesFor } from './common.ts';

const LOADS_UNDER_WAY = 8;

/** sums f32 [T · heads, parts, vDim], stats f32 [T · heads, parts] pairs of maximum and sum, sinks [heads], y [T, heads · vDim]. */
export function attentionMerge(p: AttentionProblem, parts: number, caps: Capabilities): Launch {
  const lanes = lanesFor(p.vDim);
  const perRow = p.vDim / lanes;
  const stats = globalBuffer('stats', 'f32', 2);
  const sums = globalBuffer('sums', 'f32', lanes);
  const sinks = p.sinksElem === undefined ? undefined : globalBuffer('sinks', p.sinksElem);
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  return elementwise({
    name: `attention_merge_${p.heads}x${p.vDim}`,
    family: 'attention',
    params: [['sums', sums], ['stats', stats], ...(sinks === undefined ? [] : [['sinks', sinks] as const]), ['y', y]],
    perRow: p.heads * perRow,
    rows: {},
    body(item) {
      const stmts: Stmt[] = [];
      const row = define(stmts, 'row', b.div(item, b.u32(perRow)));
      const first = define(stmts, 'first', b.mul(row, b.u32(parts)));
      const column = define(stmts, 'column', b.mod(item, b.u32(perRow)));
      const [top, total, sum] = [b.variable('top', b.ty('f32')), b.variable('total', b.ty('f32')), b.variable('sum', b.ty('f32', lanes))];
      const each = (name: string, body: (at: Expr) => readonly Stmt[]): Stmt =>
        b.for_(name, b.u32(0), b.u32(parts), 1, (part) => body(b.add(first, part)), LOADS_UNDER_WAY);
      const sink = sinks === undefined ? undefined : define(stmts, 'sink', sinkTop(p, sinks, b.mod(row, b.u32(p.heads))));
      stmts.push(
        b.var_('top', sink ?? b.f32(leastTop(p))),
        each('a', (at) => [b.assign('top', b.max(top, b.lane(b.load(stats, at), 0)))]),
        b.var_('total', sink === undefined ? b.f32(0) : b.exp2(b.sub(sink, top))),
        b.var_('sum', b.splat(lanes, b.f32(0))),
        each('c', (at) => {
          const own: Stmt[] = [];
          const stat = define(own, 'stat', b.load(stats, at));
          const weight = define(own, 'weight', b.exp2(b.sub(b.lane(stat, 0), top)));
          return [
            ...own,
            b.assign('total', b.fma(b.lane(stat, 1), weight, total)),
            b.assign('sum', b.fma(b.load(sums, b.add(b.mul(at, b.u32(perRow)), column)), weight, sum)),
          ];
        }),
        b.store(y, item, b.cast(y.elem, b.mul(sum, b.splat(lanes, b.div(b.f32(1), b.max(total, b.f32(TINY))))))),
      );
      return stmts;
    },
  }, elementwiseSchedule(caps), caps);
}
