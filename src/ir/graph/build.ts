/** Makes graphs: results and their types follow from the op table, so callers name only operands and attributes. */
import type { Span } from '../../diagnostics/types.ts';
import { type Ins, sameType } from './op-spec.ts';
import { mayStore, OPS } from './ops.ts';
import type { Graph, GraphParam, Node, OpName, Ops, ParamRole, Type, Value } from './types.ts';

/** Hands out value ids that a graph does not use yet: the hint, then the hint with a number. */
export type FreshId = (hint: string) => string;

export function freshIds(taken: Iterable<string> = []): FreshId {
  const used = new Set(taken);
  return (hint) => {
    const stem = hint.replace(/[^A-Za-z0-9_.]/g, '_').replace(/^(?![A-Za-z_])/, '_');
    let id = stem;
    for (let n = 1; used.has(id); n++) id = `${stem}_${n}`;
    used.add(id);
    return id;
  };
}

/** Result ids are named after the op: `norm`, `moe_route.weights`. */
const resultHint = (op: OpName, out: string, outs: number): string => {
  const stem = op.replace(/^moe\./, '');
  return outs === 1 ? stem : `${stem}.${out}`;
};

/** Keeps results of a node that is replaced, or leaves optional ones out. */
export type Reuse<K extends OpName> = { readonly [O in keyof Ops[K]['outs']]?: Value | 'omit' };

/**
 * A node of op `K` with fresh results, typed by the table. `reuse` gives results that keep their value
 * (when a node replaces another, or stores a result in 16 bits) and leaves out optional ones marked `omit`.
 * @throws Error when operands or attributes do not verify, or a reused value has another type
 */
export function makeNode<K extends OpName>(
  fresh: FreshId,
  op: K,
  ins: Ins<K>,
  attrs: Ops[K]['attrs'],
  span?: Span,
  reuse: Reuse<K> = {},
): Node<K> {
  const spec = OPS[op];
  const problems: string[] = [];
  const given: Readonly<Record<string, Value | undefined>> = { ...ins };
  for (const [name, presence] of Object.entries(spec.ins)) {
    if (presence === 'required' && given[name] === undefined) problems.push(`operand ${name} is missing`);
  }
  if (problems.length === 0) spec.verify(ins, attrs, (problem) => problems.push(problem));
  if (problems.length > 0) throw new Error(`${op}: ${problems.join('; ')}`);
  const types: Readonly<Record<string, Type | undefined>> = { ...spec.infer(ins, attrs) };
  const kept: Readonly<Record<string, Value | 'omit' | undefined>> = { ...reuse };
  const outs: Record<string, Value> = {};
  for (const [name, presence] of Object.entries(spec.outs)) {
    const type = types[name];
    const old = kept[name];
    if (type === undefined || (old === 'omit' && presence === 'optional')) continue;
    if (old === undefined || old === 'omit') outs[name] = { id: fresh(resultHint(op, name, Object.keys(types).length)), type };
    else if (mayStore(op, attrs, name, type, old.type)) outs[name] = old;
    else throw new Error(`${op}: result ${name} cannot keep %${old.id}, its type changes`);
  }
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  // The table's rows and the node's type say the same, but TypeScript cannot follow it through a generic K.
  return { op, ins: present, attrs, outs, ...(span !== undefined && { span }) } as unknown as Node<K>;
}

/** Collects the params and nodes of one graph. */
export interface GraphBuilder {
  readonly params: readonly GraphParam[];
  readonly nodes: readonly Node[];
  /** A parameter; asking for the same name again gives the same value. */
  param(name: string, type: Type, role: ParamRole): Value;
  /** A node; its results, optional ones included where the operands allow them. */
  add<K extends OpName>(op: K, ins: Ins<K>, attrs: Ops[K]['attrs']): Readonly<Ops[K]['outs']>;
  /** Place in the spec for the nodes added from now on. */
  at(span: Span | undefined): void;
  finish(results: Readonly<Record<string, Value>>): Graph;
}

export function graphBuilder(name: string): GraphBuilder {
  const fresh = freshIds();
  const params: GraphParam[] = [];
  const nodes: Node[] = [];
  let span: Span | undefined;
  return {
    params,
    nodes,
    param(paramName, type, role) {
      const known = params.find((p) => p.name === paramName);
      if (known !== undefined) {
        if (!sameType(known.value.type, type)) throw new Error(`parameter ${paramName} has two types`);
        return known.value;
      }
      const value: Value = { id: fresh(paramName.replace(/^layers\.\{l\}\./, '')), type };
      params.push({ name: paramName, value, role });
      return value;
    },
    add(op, ins, attrs) {
      const node = makeNode(fresh, op, ins, attrs, span);
      nodes.push(node as Node);
      return node.outs;
    },
    at(place) {
      span = place;
    },
    finish: (results) => ({ name, params: [...params], nodes: [...nodes], results }),
  };
}
