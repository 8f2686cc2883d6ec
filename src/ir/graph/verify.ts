/** Says what is wrong with a graph; run after lowering and after every pass. */
import type { Span } from '../../diagnostics/types.ts';
import { sameType } from './op-spec.ts';
import { mayStore, OPS } from './ops.ts';
import { showType } from './print.ts';
import { operands, results } from './rewrite.ts';
import type { Graph, GraphParam, Node, OpName, Type, Value } from './types.ts';
import { weightProblems } from './weight.ts';

export interface GraphProblem {
  /** The node, parameter or result concerned. */
  readonly where: string;
  readonly problem: string;
  readonly span?: Span;
}

const ID = /^[A-Za-z_][A-Za-z0-9_.]*$/;

function paramProblems({ value, role }: GraphParam): readonly string[] {
  const { type } = value;
  if (type.kind !== 'tensor') return ['a parameter is a tensor'];
  switch (role.kind) {
    case 'input':
      return type.shape[0] === 'T' ? [] : ['an input has T rows'];
    case 'weight':
      return weightProblems(type, role);
    case 'rope': {
      const fits =
        type.dtype === 'f32' && type.shape.length === 2 && type.shape[0] === 'cap' && type.shape[1] === 2 * role.inverseFrequencies.length;
      const finite = [...role.inverseFrequencies, role.scale].every(Number.isFinite);
      return [
        ...(fits ? [] : [`a rope table is f32[cap, ${2 * role.inverseFrequencies.length}]`]),
        ...(finite ? [] : ['a frequency is not finite']),
      ];
    }
    case 'state':
      return type.shape.length === 2 && type.shape[0] === 'cap' ? [] : ['a state has one row a token of context'];
  }
}

/** What is wrong with one node on its own, its results included. */
function nodeProblems<K extends OpName>(node: Node<K>): readonly string[] {
  const spec = OPS[node.op];
  const problems: string[] = [];
  const ins: Readonly<Record<string, Value | undefined>> = { ...node.ins };
  const outs: Readonly<Record<string, Value | undefined>> = { ...node.outs };
  const unknown = (given: object, known: object, what: string): void => {
    for (const name of Object.keys(given)) if (!Object.hasOwn(known, name)) problems.push(`has no ${what} ${name}`);
  };
  unknown(ins, spec.ins, 'operand');
  unknown(outs, spec.outs, 'result');
  for (const [name, presence] of Object.entries(spec.ins))
    if (presence === 'required' && ins[name] === undefined) problems.push(`operand ${name} is missing`);
  for (const [name, presence] of Object.entries(spec.outs))
    if (presence === 'required' && outs[name] === undefined) problems.push(`result ${name} is missing`);
  if (problems.length > 0) return problems;
  spec.verify(node.ins, node.attrs, (problem) => problems.push(problem));
  if (problems.length > 0) return problems;
  const types: Readonly<Record<string, Type | undefined>> = { ...spec.infer(node.ins, node.attrs) };
  for (const [name, value] of Object.entries(outs)) {
    const type = types[name];
    if (value === undefined) continue;
    if (type === undefined) problems.push(`result ${name} does not come from these operands`);
    else if (!mayStore(node.op, node.attrs, name, type, value.type)) problems.push(`result ${name} is ${showType(type)}, not ${showType(value.type)}`);
  }
  return problems;
}

/** All problems of a graph; none for a graph that every later stage may rely on. */
export function verifyGraph(graph: Graph): readonly GraphProblem[] {
  const problems: GraphProblem[] = [];
  const defined = new Map<string, Type>();
  const tell = (where: string, problem: string, span?: Span): void => {
    problems.push({ where, problem, ...(span !== undefined && { span }) });
  };
  const define = (value: Value, where: string, span?: Span): void => {
    if (!ID.test(value.id)) tell(where, `${JSON.stringify(value.id)} is no id of a value`, span);
    if (defined.has(value.id)) tell(where, `%${value.id} is defined twice`, span);
    defined.set(value.id, value.type);
  };
  const use = (value: Value, where: string, what: string, span?: Span): void => {
    const type = defined.get(value.id);
    if (type === undefined) tell(where, `${what} %${value.id} is not defined before`, span);
    else if (!sameType(type, value.type)) tell(where, `${what} %${value.id} is ${showType(type)}, read as ${showType(value.type)}`, span);
  };

  const names = new Set<string>();
  for (const param of graph.params) {
    const where = `param ${param.name}`;
    if (names.has(param.name)) tell(where, 'two parameters have this name');
    names.add(param.name);
    define(param.value, where);
    for (const problem of paramProblems(param)) tell(where, problem);
  }
  for (const node of graph.nodes) {
    const where = `${node.op} %${results(node)[0]?.[1].id ?? '?'}`;
    if (!Object.hasOwn(OPS, node.op)) {
      tell(where, 'no such op', node.span);
      continue;
    }
    for (const [name, value] of operands(node)) use(value, where, `operand ${name}`, node.span);
    for (const problem of nodeProblems(node)) tell(where, problem, node.span);
    for (const [, value] of results(node)) define(value, where, node.span);
  }
  if (Object.keys(graph.results).length === 0) tell(`graph ${graph.name}`, 'a graph has at least one result');
  for (const [name, value] of Object.entries(graph.results)) use(value, `result ${name}`, 'value');
  return problems;
}

/** @throws Error listing the problems of the graph; `when` says who made it (a pass, the lowering) */
export function assertValidGraph(graph: Graph, when: string): void {
  const problems = verifyGraph(graph);
  if (problems.length === 0) return;
  throw new Error(`graph ${graph.name} is broken ${when}:\n${problems.map((p) => `  ${p.where}: ${p.problem}`).join('\n')}`);
}
