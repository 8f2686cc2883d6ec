/** Graphs as text: one line a node, one line a source of a weight. `parse.ts` reads it back; spans are not printed. */
import { OPS } from './ops.ts';
import type { Graph, GraphParam, Node, OpName, TensorSource, Type, Value } from './types.ts';

export function showType(type: Type): string {
  if (type.kind === 'plan') return `plan(${type.experts}, ${type.slots}, ${type.mode}, ${type.tileRows})`;
  return `${type.dtype}[${type.shape.join(', ')}]`;
}

const showNamed = (values: Readonly<Record<string, Value | undefined>>, order: readonly string[], typed: boolean): string =>
  order
    .flatMap((name) => {
      const value = values[name];
      return value === undefined ? [] : [`${name}=%${value.id}${typed ? `: ${showType(value.type)}` : ''}`];
    })
    .join(', ');

function showNodeOf<K extends OpName>(node: Node<K>): string {
  const spec = OPS[node.op];
  const attrs = JSON.stringify(node.attrs);
  const ins = showNamed({ ...node.ins }, Object.keys(spec.ins), false);
  return `${showNamed({ ...node.outs }, Object.keys(spec.outs), true)} = ${node.op}(${ins})${attrs === '{}' ? '' : ` ${attrs}`}`;
}

/** One line, such as `y=%norm: f32[T, 64] = norm(x=%x, weight=%w) {"kind":"rms",…}`. */
export const showNode = (node: Node): string => showNodeOf(node);

const showSource = (s: TensorSource): string =>
  `from ${JSON.stringify(s.name)} [${s.shape.join(', ')}] n ${s.n.axis}:${s.n.start}:${s.n.step} k ${s.k.start}:${s.k.step}` +
  (s.bankRows === undefined ? '' : ` bank ${s.bankRows}`) +
  (s.requires === undefined ? '' : ` requires ${JSON.stringify(s.requires)}`);

/** Lines of a parameter: its declaration and, for a weight, where its rows come from. */
function paramLines({ name, value, role }: GraphParam): readonly string[] {
  const head = `  param %${value.id}: ${showType(value.type)} = ${role.kind} ${JSON.stringify(name)}`;
  switch (role.kind) {
    case 'input':
    case 'state':
      return [head];
    case 'rope':
      return [`${head} scale ${role.scale} frequencies ${role.inverseFrequencies.join(' ')}`];
    case 'weight':
      return [head, ...role.parts.flatMap((part) => [`    rows ${part.rows}`, ...part.sources.map((s) => `      ${showSource(s)}`)])];
  }
}

export function printGraph(graph: Graph): string {
  return [
    `graph ${JSON.stringify(graph.name)} {`,
    ...graph.params.flatMap(paramLines),
    ...graph.nodes.map((node) => `  ${showNode(node)}`),
    `  return ${showNamed(graph.results, Object.keys(graph.results), false)}`,
    '}',
    '',
  ].join('\n');
}
