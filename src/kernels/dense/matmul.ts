/**
 * The dense matrix product behind `linear` and `head_linear`: y[t, h] = x[t, h] · weight[h]ᵀ, a tile of
 * rows and columns a block. Sums run over ascending k with fma in every form and schedule, so that a
 * row's bits do not depend on how many rows there are.
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, ScalarName, Stmt, Tile, View } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { matrixTile } from '../matrix-tile.ts';
import { walkTiles } from '../persistent.ts';
import { softwareTile } from '../software-tile.ts';
import { isFma, mainloopSchedule, rowLanes, tileLanes, tileRecord, tileThreads, wantLegalTile } from '../schedule.ts';
import type { MatvecSchedule, TileSchedule, TileShape } from '../schedule.ts';
import {
  define, globalBuffer, inLine, lanesFor, launch, line, powerOfTwo, rowsExpr, rowsSize, segmentOf, segmentScalars, wantIndexable, wantWhole,
} from './common.ts';
import type { Rows, Segmented, StorageElem, WeightElem } from './common.ts';
import { weightMatrix, weightView } from '../weight-matrix.ts';
import { rowsByTeams, rowsSchedule } from './rows.ts';

export type LinearSchedule = TileSchedule & {
  /** 1: a call of a single row runs a tile of one row, others one of bm (of variant fma). */
  readonly oneRow: 0 | 1;
};

export interface MatmulProblem extends Rows, Segmented {
  readonly heads: number;
  readonly n: number;
  readonly k: number;
  /** 2: rows n … 2n − 1 of the weight give a second product. */
  readonly products: 1 | 2;
  readonly weightElem: WeightElem;
  /** Storage of x and y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
  /** The most rows a call has, where that is known (a decode bucket). */
  readonly maxRows?: number;
}

/** Rows of a call where the problem does not say how many there are at most. */
const TYPICAL_ROWS = 4096;
/** Rows up to which a call is served by the matrix-vector form. */
export const MATVEC_ROWS = 8;

export function linearSchedule(p: MatmulProblem, caps: Capabilities): LinearSchedule {
  const software = softwareTile(softwareRowsOf(p), p.products, p.weightElem, caps);
  if (software !== undefined) return { ...software, oneRow: p.maxRows !== undefined && p.maxRows > 1 && p.maxRows <= MATVEC_ROWS ? 1 : 0 };
  const staging = caps.target === 'cuda' ? 'shared' : 'register';
  if (p.maxRows !== undefined && p.maxRows <= MATVEC_ROWS) {
    const tm = Math.min(4, p.maxRows);
    return { bm: Math.ceil(p.maxRows / tm) * tm, bn: 64, tm, tn: 2, bk: 32 / p.products, staging, oneRow: p.maxRows > 1 ? 1 : 0 };
  }
  const tensor = denseTile(p, caps);
  if (tensor !== undefined) return { ...tensor, oneRow: 0 };
  if (staging === 'shared') return { bm: 64, bn: 64, tm: 8, tn: p.products === 2 ? 2 : 4, bk: 16, staging, oneRow: 0 };
  // Larger pieces are no faster in software and take a driver's compiler ten times as long.
  return { bm: 32, bn: p.products === 2 ? 32 : 64, tm: 4, tn: p.products === 2 ? 2 : 4, bk: 8, staging, oneRow: 0 };
}

/** Rows of a tile on devices with small subgroups: those of a long call share columns by two pieces, or by one for both of two products. */
function softwareRowsOf({ maxRows }: MatmulProblem): number {
  if (maxRows !== undefined && maxRows <= MATVEC_ROWS) return powerOfTwo(maxRows);
  return maxRows === undefined || maxRows > 64 ? 16 : 8;
}

/** Tensor cores where they can be had: tiles as tall as the call is likely to fill. */
function denseTile(p: MatmulProblem, caps: Capabilities): TileSchedule | undefined {
  const shape = tileShape(p);
  const bm = p.maxRows === undefined ? 128 : Math.min(128, Math.max(16, powerOfTwo(p.maxRows / 4)));
  const rows = p.maxRows === undefined ? TYPICAL_ROWS : p.maxRows / 2;
  return matrixTile({ bm, rowTiles: p.heads * Math.ceil(rows / bm), n: p.n, loops: [shape] }, caps);
}

const tileShape = (p: MatmulProblem): TileShape => ({
  k: p.k, lanes: lanesFor(p.k), count: p.products, weightElem: p.weightElem, xElem: p.xElem ?? 'f32', width: p.heads * Math.min(p.k, p.n),
});

export interface MatmulParts {
  readonly name: string;
  readonly family: string;
  readonly shape: MatmulProblem;
  /** Operands between `weight` and `y`. */
  readonly extra: readonly (readonly [operand: string, buffer: Buffer])[];
  /** What to store for the columns from `col` of the head's n on, as many as the sums have lanes: `at` is the element of y. */
  result(sums: readonly Expr[], col: Expr, at: Expr): Expr;
}

/** x f32 [rows, heads · k]; weight [heads, products · n, k]; y f32 [rows, heads · n]. Splits run over heads, over n where there is one. */
export function matmul(parts: MatmulParts, schedule: LinearSchedule | MatvecSchedule | undefined, caps: Capabilities): Launch {
  const { family, shape: p } = parts;
  wantWhole(family, { heads: p.heads, n: p.n, k: p.k, segmentRows: p.segmentRows, maxRows: p.maxRows, rowsPerToken: p.rowsPerToken });
  if (p.products === 2 && p.segmentRows !== undefined) {
    throw new Error(`${family}: a weight of gate and up rows cannot be split over its rows`);
  }
  const chosen = schedule ?? rowsSchedule(p, caps) ?? linearSchedule(p, caps);
  if ('team' in chosen) return rowsByTeams(parts, chosen, caps);
  const s = chosen;
  const lanes = lanesFor(p.k);
  const { oneRow, ...tileSchedule } = s;
  wantLegalTile(family, tileSchedule, tileShape(p), caps);
  if (oneRow === 1 && !isFma(s)) throw new Error(`${family}: a tile of one row is for fma`);
  const block = tileThreads(s);
  const weight = weightMatrix('weight', p.weightElem, p.k);
  const byHead = p.heads > 1;
  const heads = segmentOf(byHead ? p : {}, p.heads);
  const columns = segmentOf(byHead ? {} : p, p.n);
  wantIndexable(family, 'the weight', heads.most * p.products * columns.most * weight.stride);

  const xLanes = rowLanes(tileSchedule, lanes);
  const x = globalBuffer('x', p.xElem ?? 'f32', xLanes);
  const yLanes = tileLanes(s, p.n);
  const y = globalBuffer('y', p.yElem ?? 'f32', yLanes);
  const rows = rowsExpr(p);
  const oneBand = p.maxRows !== undefined && p.maxRows <= s.bm;
  const perHead = Math.ceil(columns.most / s.bn);
  const bands = oneBand ? 1 : ceilDivSize(rowsSize(p), s.bm);
  const places = heads.most * perHead;
  const l = line(mulSize(bands, places), caps);
  const staying = s.variant === 'wgmma';

  // Bands of rows lie next to each other in the line: they share the columns' weights. Blocks that stay bind band and place themselves.
  const head: Stmt[] = [];
  const index = staying ? b.u32(0) : define(head, 'block_index', l.index);
  const bandCount = oneBand ? b.u32(1) : define(head, 'bands', b.ceilDiv(rows, b.u32(s.bm)));
  const body: Stmt[] = [];
  const place = staying ? b.variable('place') : oneBand ? index : define(body, 'place', b.div(index, bandCount));
  const band = staying ? b.variable('band') : b.mod(index, bandCount);
  const row0 = oneBand ? b.u32(0) : define(body, 'row0', b.mul(band, b.u32(s.bm)));
  const col0 = define(body, 'col0', b.mul(b.mod(place, b.u32(perHead)), b.u32(s.bn)));
  const localHead = byHead ? define(body, 'local_head', b.div(place, b.u32(perHead))) : b.u32(0);
  const globalHead = byHead ? b.add(heads.first, localHead) : b.u32(0);

  /** Row `r` of the tile, of all rows and heads. */
  const headRow = (r: Expr): Expr => b.add(b.mul(b.add(row0, r), b.u32(p.heads)), globalHead);
  const exists = (c: Expr): Expr => b.lt(b.add(col0, c), columns.count);
  const ragged = p.segmentRows !== undefined || p.n % s.bn !== 0;
  const compute = (bm: number, tm: number, name: string): readonly Stmt[] => {
    const tile: Tile = { name, rows: bm, cols: s.bn, count: p.products };
    const a = b.view(
      x,
      (r, kk) => b.add(b.mul(headRow(r), b.u32(p.k / xLanes)), b.div(kk, b.u32(xLanes))),
      bm === 1 ? undefined : (r) => b.lt(b.add(row0, r), rows),
      byHead ? {} : { matrix: { first: row0 } },
    );
    const operand = (product: number): View => weightView(
      weight,
      (c) => b.mul(b.add(b.mul(localHead, b.u32(p.products * p.n)), b.u32(product * p.n), col0, c), b.u32(weight.stride)),
      ragged ? exists : undefined,
      {
        first: b.add(b.mul(localHead, b.u32(p.products * p.n)), b.u32(product * p.n), col0),
        // The last segment of a split weight may hold fewer.
        ...(p.segmentRows === undefined ? { rows: p.heads * p.products * p.n } : {}),
      },
    );
    const operands = p.products === 2 ? [operand(0), operand(1)] : [operand(0)];
    return [
      b.tileAlloc(tile),
      b.mainloop(tile, a, operands, p.k, isFma(s) ? mainloopSchedule({ ...s, tm }) : mainloopSchedule(s)),
      b.tileMap(tile, (r, c, sums) => {
        const stored: Stmt[] = [];
        const col = define(stored, 'y_col', b.add(columns.first, col0, c));
        const at = define(stored, 'y_at', b.add(b.mul(headRow(r), b.u32(p.n)), col));
        stored.push(b.store(y, b.div(at, b.u32(yLanes)), b.cast(y.elem, parts.result(sums, col, at))));
        const inRows = bm === 1 ? b.bool(true) : b.lt(b.add(row0, r), rows);
        const valid = b.and(inRows, ragged ? exists(c) : b.bool(true));
        return valid.k === 'const' ? stored : [b.if_(valid, stored)];
      }, yLanes),
    ];
  };
  const full = compute(s.bm, isFma(s) ? s.tm : 1, 'acc');
  body.push(...(oneRow === 1 && s.bm > 1 ? [b.if_(b.eq(rows, b.u32(1)), compute(1, 1, 'acc_one'), full)] : full));

  const inside = byHead ? b.lt(localHead, heads.count) : b.lt(col0, columns.count);
  const ran = p.segmentRows === undefined ? body : withinSegment(body, inside);
  const work = staying
    ? walkTiles(bandCount, places, caps, (row, column) => [b.let_('band', row), b.let_('place', column), ...ran])
    : { body: inLine(l, index, b.mul(bandCount, b.u32(places)), ran), grid: l.grid };
  const scalars: readonly ScalarName[] = ['T', ...segmentScalars(p)];
  return launch({
    name: parts.name,
    family,
    params: [['x', x], ['weight', weight.buf], ...parts.extra, ['y', y]],
    scalars,
    block,
    // Fewer warps may have more registers each: a compiler that hopes for more blocks spills.
    ...(caps.target === 'cuda' && block <= 128 && { resident: 2 }),
    body: [...head, ...work.body],
    schedule: { ...tileRecord(tileSchedule), oneRow },
    grid: work.grid,
  });
}

/** The last segment may be smaller than the grid is made for: its surplus blocks do nothing. */
function withinSegment(body: readonly Stmt[], inside: Expr): readonly Stmt[] {
  const cut = body.findIndex((s) => s.k !== 'let');
  return [...body.slice(0, cut), b.if_(inside, body.slice(cut))];
}
