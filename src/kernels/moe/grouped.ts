/**
 * moe.grouped_linear: y[row] = epilogue(x[row] · weight[expert of row]ᵀ + bias), in every fused form. Three
 * kernels serve it: tiles of a sorted plan, single rows of a direct one, and whole tokens where the slots are
 * summed on the spot. Sums run over ascending k with fma in all of them, so they agree bit for bit (unless a
 * schedule splits the depth over a team of threads).
 *
 * Operands `x`, `plan` (sorted) or `ids` (direct; always with combine), `weight`, [`bias`, `routeWeights`,
 * `sharedX`, `sharedWeight`, `sharedBias`, `sharedGate`, `residual`]; results `y`, [`shared`].
 */
import type { Capabilities } from '../../target/types.ts';
import { epilogueCount } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import { matrixTile } from '../matrix-tile.ts';
import { bySubgroups, kernelSharedBytes } from '../schedule.ts';
import type { FmaTile, MatvecSchedule, TileShape } from '../schedule.ts';
import { softwareRows, softwareTile } from '../software-tile.ts';
import { accessesUnderWay, teamSize } from '../team.ts';
import { piecesOf, weightStride } from '../weight-matrix.ts';
import { lanesFor, powerOfTwo, wantIndexable, wantWhole } from './common.ts';
import type { StorageElem, WeightElem } from './common.ts';
import { groupedCombine } from './grouped-combine.ts';
import { groupedCombineTeams } from './grouped-combine-teams.ts';
import { groupedRows } from './grouped-rows.ts';
import { groupedTiles } from './grouped-tiles.ts';
import type { GroupedProblem, GroupedSchedule } from './grouped-problem.ts';

/** Widest result of the kernel: blocks of columns are laid out for it. */
const widest = (p: GroupedProblem): number => Math.max(p.n, p.shared?.n ?? 0);

/** Which record the problem runs by, and its default. */
export function groupedSchedule(p: GroupedProblem, caps: Capabilities): GroupedSchedule {
  const columns = powerOfTwo(widest(p));
  if (p.combine || p.mode === 'direct') {
    const team = teamSize(caps);
    if (team !== undefined) return { matvec: teamSchedule(p, team, caps) };
    const rows = softwareRows(epilogueCount(p.epilogue), caps);
    if (rows !== undefined) return { matvec: rows };
    const block = Math.min(64, caps.maxThreadsPerBlock, columns);
    return { matvec: { block, team: 1, cols: Math.max(1, Math.min(2 / epilogueCount(p.epilogue), columns / block)) } };
  }
  const shapes = tileShapes(p);
  // Calls that fill tiles of this height give most experts one.
  const tensor = matrixTile({ bm: p.tileRows, rowTiles: p.experts, n: widest(p), loops: shapes }, caps);
  if (tensor !== undefined) return { tile: tensor };
  const broadcasting = softwareTile(p.tileRows, epilogueCount(p.epilogue), p.weightElem, caps);
  if (broadcasting !== undefined) return { tile: broadcasting };
  // 32 sums a thread, whether of one matrix or of two: more of them spill on small register files.
  const most = 8 / epilogueCount(p.epilogue);
  const tn = Math.min(4, columns);
  const tm = [8, 4, 2, 1].find((rows) => rows <= most && p.tileRows % rows === 0) ?? 1;
  const across = Math.max(1, Math.floor(32 / (p.tileRows / tm)));
  const bn = Math.min(columns, across * tn);
  const tile: FmaTile = { bm: p.tileRows, bn, bk: 16, tm, tn, staging: 'register' };
  return { tile: caps.target === 'cuda' ? staged(tile, shapes, caps) : tile };
}

/** Teams that are subgroups, four to a block: small blocks share the last of the work evenly. */
function teamSchedule(p: GroupedProblem, team: number, caps: Capabilities): MatvecSchedule {
  const pieces = piecesOf(p.weightElem, p.k, team);
  const block = Math.min(4 * team, caps.maxThreadsPerBlock);
  const ways = p.combine && p.slots > 1 ? 2 : 1;
  return { block, team, cols: 1, unroll: accessesUnderWay(pieces.count, team, pieces.bytes, epilogueCount(p.epilogue)), ...(ways > 1 && { ways }) };
}

/** What the main loops of a sorted problem are over. */
const tileShapes = (p: GroupedProblem): readonly TileShape[] => {
  const count = epilogueCount(p.epilogue);
  const shape = (k: number, n: number, weightElem: WeightElem, xElem: StorageElem): TileShape => ({
    k, lanes: lanesFor(k), count, weightElem, xElem, width: Math.min(k, n), bias: p.biasElem !== undefined,
  });
  const x = p.xElem ?? 'f32';
  const routed = shape(p.k, p.n, p.weightElem, x);
  return p.shared === undefined ? [routed] : [routed, shape(p.shared.k, p.shared.n, p.shared.weightElem, p.shared.ownX ? (p.shared.xElem ?? 'f32') : x)];
};

/** The tile with operands staged in slices as deep as shared memory takes; the shared FFN has slices of its own. */
function staged(tile: FmaTile, shapes: readonly TileShape[], caps: Capabilities): FmaTile {
  const fitting = [32, 16, 8, 4]
    .map((bk): FmaTile => ({ ...tile, bk, staging: 'shared' }))
    .find((s) => kernelSharedBytes(s, shapes) <= caps.maxSharedBytes);
  return fitting ?? tile;
}

function check(p: GroupedProblem): void {
  wantWhole('grouped_linear', { experts: p.experts, slots: p.slots, n: p.n, k: p.k, segmentRows: p.segmentRows });
  const perExpert = epilogueCount(p.epilogue) * p.n * weightStride(p.weightElem, p.k);
  wantIndexable('grouped_linear', 'the bank', Math.min(p.segmentRows ?? p.experts, p.experts) * perExpert);
  if (p.combine && p.epilogue.kind !== 'none') throw new Error('grouped_linear: combine goes without an epilogue');
  if (!p.combine && (p.residual || p.scale !== 1)) throw new Error('grouped_linear: residual and scale go with combine');
  if (p.shared === undefined) return;
  wantWhole('grouped_linear', { 'shared n': p.shared.n, 'shared k': p.shared.k });
  wantIndexable('grouped_linear', 'the shared weight', epilogueCount(p.epilogue) * p.shared.n * weightStride(p.shared.weightElem, p.shared.k));
  if (p.combine && p.shared.n !== p.n) throw new Error(`grouped_linear: the shared rows have ${p.shared.n} columns, the result ${p.n}`);
  if (!p.shared.ownX && (!p.gather || p.shared.k !== p.k))
    throw new Error('grouped_linear: the shared FFN reads x only where it is gathered, with its depth');
  if (!p.combine && p.shared.gate) throw new Error('grouped_linear: sharedGate goes with combine');
}

export function groupedLinear(p: GroupedProblem, schedule: GroupedSchedule | undefined, caps: Capabilities): Launch {
  check(p);
  const standard = groupedSchedule(p, caps);
  const tile = schedule?.tile ?? standard.tile;
  const matvec = schedule?.matvec ?? standard.matvec;
  if (p.mode === 'sorted' && !p.combine) {
    if (tile === undefined) throw new Error('grouped_linear: a sorted plan needs a tile schedule');
    return groupedTiles(p, tile, caps);
  }
  if (matvec === undefined) throw new Error('grouped_linear: this form needs a matvec schedule');
  if (!p.combine) return groupedRows(p, matvec, caps);
  return bySubgroups(matvec, caps) ? groupedCombineTeams(p, matvec, caps) : groupedCombine(p, matvec, caps);
}
