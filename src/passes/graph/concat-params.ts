/**
 * Two weights stored as one: rows of the second behind those of the first, in every expert of a bank.
 * The two parameters disappear; the parts of the new one say where its rows come from, so nothing is stored twice.
 */
import { tensor } from '../../ir/graph/op-spec.ts';
import { freshFor } from '../../ir/graph/rewrite.ts';
import type { Graph, GraphParam, TensorType, Value } from '../../ir/graph/types.ts';
import { weightLayout, type WeightLayout, type WeightRole } from '../../ir/graph/weight.ts';
import { describeValue, type Scene } from './match.ts';

export interface Joined {
  readonly graph: Graph;
  readonly value: Value;
}

interface Weight {
  readonly param: GraphParam;
  readonly role: WeightRole;
  readonly type: TensorType;
  readonly layout: WeightLayout;
}

/** The weight a value is; a text says why it cannot be joined with another. */
function weightOf(scene: Scene, value: Value): Weight | string {
  const param = scene.param(value);
  if (param?.role.kind !== 'weight' || value.type.kind !== 'tensor') return `${describeValue(value)} is not a weight`;
  if (scene.uses(value) !== 1) return `${describeValue(value)} is read elsewhere too`;
  const layout = weightLayout(value.type, param.role);
  return layout === undefined ? `${describeValue(value)} has no rows` : { param, role: param.role, type: value.type, layout };
}

/** `experts.gate.weight` and `experts.up.weight` become `experts.gate_up.weight`. */
function joinedName(a: string, b: string): string {
  const [as, bs] = [a.split('.'), b.split('.')];
  const at = as.findIndex((piece, i) => piece !== bs[i]);
  if (as.length !== bs.length || at < 0) return `${a}_and_${b}`;
  return as.map((piece, i) => (i === at ? `${piece}_${bs[i] ?? ''}` : piece)).join('.');
}

function joinable(scene: Scene, a: Value, b: Value): readonly [Weight, Weight] | string {
  const [wa, wb] = [weightOf(scene, a), weightOf(scene, b)];
  if (typeof wa === 'string') return wa;
  if (typeof wb === 'string') return wb;
  if (wa.type.dtype !== wb.type.dtype) return `${describeValue(a)} and ${describeValue(b)} are stored in two ways`;
  const isFit = wa.layout.bank === wb.layout.bank && wa.layout.k === wb.layout.k && wa.layout.axis === wb.layout.axis;
  return isFit ? [wa, wb] : `${describeValue(a)} and ${describeValue(b)} differ beyond their rows`;
}

/** Why two weights cannot become one; undefined where they can. */
export function joinProblem(scene: Scene, a: Value, b: Value): string | undefined {
  const found = joinable(scene, a, b);
  return typeof found === 'string' ? found : undefined;
}

/** The type of the two as one. @throws Error where `joinProblem` finds one */
export function joinedType(scene: Scene, a: Value, b: Value): TensorType {
  const found = joinable(scene, a, b);
  if (typeof found === 'string') throw new Error(`weights cannot be joined: ${found}`);
  const [wa, wb] = found;
  return tensor(wa.type.dtype, ...wa.type.shape.map((dim, i) => (i === wa.layout.axis ? wa.layout.n + wb.layout.n : dim)));
}

/** The graph with one parameter in place of two; the caller replaces their readers. @throws Error where `joinProblem` finds one */
export function joinParams(scene: Scene, graph: Graph, a: Value, b: Value): Joined {
  const type = joinedType(scene, a, b);
  const [pa, pb] = [scene.param(a), scene.param(b)];
  if (pa?.role.kind !== 'weight' || pb?.role.kind !== 'weight') throw new Error('weights cannot be joined: they are none');
  const value: Value = { id: freshFor(graph)(joinedName(a.id, b.id)), type };
  const joined: GraphParam = {
    name: joinedName(pa.name, pb.name),
    value,
    role: { kind: 'weight', parts: [...pa.role.parts, ...pb.role.parts] },
  };
  const params = graph.params.flatMap((p) => (p.value.id === a.id ? [joined] : p.value.id === b.id ? [] : [p]));
  return { graph: { ...graph, params }, value };
}
