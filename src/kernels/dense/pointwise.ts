/** Arithmetic element by element: gated units, activations, sums, gates of a row. */
import * as b from '../../ir/kernel/build.ts';
import type { Expr } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { activate, glu as gluOf, sigmoid } from '../epilogue.ts';
import type { Activation, GluClamp } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import { elementwise, elementwiseSchedule, globalBuffer, lanesFor, wantWhole } from './common.ts';
import type { ElementwiseSchedule, Rows, StorageElem } from './common.ts';

/** Columns of a row. */
interface Width extends Rows {
  readonly width: number;
  /** Storage of y; f32 where not said. */
  readonly yElem?: StorageElem;
}

/** y = f(operands), operands f32 and y [rows, width]. */
function pointwise(
  family: string, p: Width, operands: readonly string[], f: (values: readonly Expr[]) => Expr,
  schedule: ElementwiseSchedule | undefined, caps: Capabilities,
): Launch {
  wantWhole(family, { width: p.width, rowsPerToken: p.rowsPerToken });
  const lanes = lanesFor(p.width);
  const ins = operands.map((name) => globalBuffer(name, 'f32', lanes));
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  return elementwise({
    name: `${family}_${p.width}`,
    family,
    params: [...ins, y].map((buffer) => [buffer.name, buffer] as const),
    perRow: p.width / lanes,
    rows: p,
    body: (item) => [b.store(y, item, b.cast(y.elem, f(ins.map((buffer) => b.load(buffer, item)))))],
  }, schedule ?? elementwiseSchedule(caps), caps);
}

const none = (): Expr => b.f32(0);

export interface GluProblem extends Width {
  readonly activation: Activation;
  readonly clamp?: GluClamp;
}

/** y = act(gate) · up, clamped as the problem says; [rows, width]. */
export const glu = (p: GluProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch =>
  pointwise('glu', p, ['gate', 'up'], ([gate = none(), up = none()]) => gluOf(p.activation, p.clamp, gate, up), schedule, caps);

export interface ActProblem extends Width {
  readonly activation: Activation;
}

/** y = act(x), [rows, width]. */
export const act = (p: ActProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch =>
  pointwise('act', p, ['x'], ([x = none()]) => activate(p.activation, x), schedule, caps);

export interface AddProblem extends Width {
  readonly scale: number;
}

/** y = a + b · scale, [rows, width]. */
export const add = (p: AddProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch =>
  pointwise('add', p, ['a', 'b'], ([x = none(), y = none()]) =>
    b.add(x, p.scale === 1 ? y : b.mul(y, b.splat(y.ty.lanes, b.f32(p.scale)))), schedule, caps);

export type GateMulProblem = Width;

/** y[row, j] = x[row, j] · σ(gate[row]); x f32 and y [rows, width], gate f32 [rows, 1]. */
export function gateMul(p: GateMulProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('gate_mul', { width: p.width, rowsPerToken: p.rowsPerToken });
  const lanes = lanesFor(p.width);
  const perRow = p.width / lanes;
  const x = globalBuffer('x', 'f32', lanes);
  const gate = globalBuffer('gate', 'f32');
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  return elementwise({
    name: `gate_mul_${p.width}`,
    family: 'gate_mul',
    params: [['x', x], ['gate', gate], ['y', y]],
    perRow,
    rows: p,
    body: (item) => {
      const factor = sigmoid(b.load(gate, b.div(item, b.u32(perRow))));
      return [b.store(y, item, b.cast(y.elem, b.mul(b.load(x, item), b.splat(lanes, factor))))];
    },
  }, schedule ?? elementwiseSchedule(caps), caps);
}
