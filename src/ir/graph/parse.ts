/** Reads what `print.ts` writes: for tests, for dumps that are looked at again, never for users' text. */
import { isOpName, OPS } from './ops.ts';
import type { Dim, DType, Graph, GraphParam, Node, ParamRole, TensorSource, Type, Value, WeightPart } from './types.ts';

/** A line that is not what the printer writes. */
export class GraphTextError extends Error {
  override readonly name = 'GraphTextError';
  readonly line: number;

  constructor(line: number, message: string) {
    super(`line ${line}: ${message}`);
    this.line = line;
  }
}

const DTYPES: Readonly<Record<DType, true>> = {
  f32: true, f16: true, bf16: true, i32: true, u32: true, int8_f16: true, int8_f32: true, int4_f16: true, int4_f32: true,
};
const isDType = (text: string): text is DType => Object.hasOwn(DTYPES, text);

type Fail = (message: string) => never;

function parseDim(text: string, fail: Fail): Dim {
  if (text === 'T' || text === 'P' || text === 'cap') return text;
  return /^\d+$/.test(text) ? Number(text) : fail(`${text} is no dim`);
}

function parseType(text: string, fail: Fail): Type {
  const plan = /^plan\((\d+), (\d+), (direct|sorted), (\d+)\)$/.exec(text);
  if (plan !== null) {
    const [, experts, slots, mode, tileRows] = plan;
    return {
      kind: 'plan',
      experts: Number(experts),
      slots: Number(slots),
      mode: mode === 'direct' ? 'direct' : 'sorted',
      tileRows: Number(tileRows),
    };
  }
  const tensor = /^(\w+)\[([^\]]*)\]$/.exec(text);
  const dtype = tensor?.[1] ?? '';
  if (tensor === null || !isDType(dtype)) return fail(`${text} is no type`);
  const dims = tensor[2] === '' ? [] : (tensor[2] ?? '').split(', ');
  return { kind: 'tensor', dtype, shape: dims.map((dim) => parseDim(dim, fail)) };
}

/** A JSON string at the start of the text, and what follows it. */
function parseString(text: string, fail: Fail): readonly [value: string, rest: string] {
  const match = /^"(?:[^"\\]|\\.)*"/.exec(text);
  if (match === null) return fail('a quoted name is missing');
  const value: unknown = JSON.parse(match[0]);
  return typeof value === 'string' ? [value, text.slice(match[0].length)] : fail('a quoted name is missing');
}

function parseSource(text: string, fail: Fail): TensorSource {
  const [name, rest] = parseString(text, fail);
  const match = /^ \[([\d, ]*)\] n ([01]):(\d+):(\d+) k (\d+):(\d+)(?: bank (\d+))?(?: requires (".*"))?$/s.exec(rest);
  if (match === null) return fail('a source is: name [shape] n axis:start:step k start:step [bank rows] [requires name]');
  const [, shape = '', axis, nStart, nStep, kStart, kStep, bankRows, requires] = match;
  return {
    name,
    shape: shape === '' ? [] : shape.split(', ').map(Number),
    ...(bankRows !== undefined && { bankRows: Number(bankRows) }),
    n: { axis: axis === '0' ? 0 : 1, start: Number(nStart), step: Number(nStep) },
    k: { start: Number(kStart), step: Number(kStep) },
    ...(requires !== undefined && { requires: parseString(requires, fail)[0] }),
  };
}

interface OpenPart {
  readonly rows: number;
  readonly sources: TensorSource[];
}

function parseRole(kind: string, rest: string, parts: readonly WeightPart[], fail: Fail): ParamRole {
  if (kind === 'rope') {
    const match = /^ scale (\S+) frequencies ?(.*)$/.exec(rest);
    if (match === null) return fail('a rope table is: scale s frequencies f …');
    return {
      kind,
      inverseFrequencies: (match[2] ?? '')
        .split(' ')
        .filter((f) => f !== '')
        .map(Number),
      scale: Number(match[1]),
    };
  }
  if (rest !== '') return fail(`unexpected ${rest}`);
  if (kind === 'weight') return { kind, parts };
  return kind === 'input' || kind === 'state' ? { kind } : fail(`${kind} is no role`);
}

/** `name=%id` or `name=%id: type`, separated by commas outside brackets. */
function parseNamed(text: string, fail: Fail): readonly (readonly [name: string, id: string, type: string | undefined])[] {
  if (text === '') return [];
  return text.split(/, (?=\w+=%)/).map((item) => {
    const match = /^(\w+)=%([\w.]+)(?:: (.+))?$/.exec(item);
    return match === null ? fail(`${item} is not name=%id`) : ([match[1] ?? '', match[2] ?? '', match[3]] as const);
  });
}

interface Scope {
  define(id: string, type: Type): Value;
  use(id: string): Value;
}

function parseNode(text: string, scope: Scope, fail: Fail): Node {
  const match = /^(.*?) = ([\w.]+)\((.*?)\)(?: (\{.*\}))?$/.exec(text);
  const op = match?.[2] ?? '';
  if (match === null || !isOpName(op))
    return fail(match === null ? 'a node is: results = op(operands) attributes' : `no op is called ${op}`);
  const ins = parseNamed(match[3] ?? '', fail).map(([name, id]) => {
    if (!Object.hasOwn(OPS[op].ins, name)) fail(`${op} has no operand ${name}`);
    return [name, scope.use(id)] as const;
  });
  const outs = parseNamed(match[1] ?? '', fail).map(([name, id, type]) => {
    if (!Object.hasOwn(OPS[op].outs, name)) fail(`${op} has no result ${name}`);
    return [name, scope.define(id, parseType(type ?? '', fail))] as const;
  });
  const attrs: unknown = JSON.parse(match[4] ?? '{}');
  // Operands and results are known names; `verifyGraph` judges the rest.
  return { op, ins: Object.fromEntries(ins), attrs, outs: Object.fromEntries(outs) } as unknown as Node;
}

/**
 * The graph of a text that `printGraph` made; equal to the printed one but for spans. Run `verifyGraph` on it.
 * @throws GraphTextError with the line
 */
export function parseGraph(text: string): Graph {
  let line = 0;
  const fail: Fail = (message) => {
    throw new GraphTextError(line, message);
  };
  const values = new Map<string, Value>();
  const scope: Scope = {
    define(id, type) {
      const value: Value = { id, type };
      values.set(id, value);
      return value;
    },
    use: (id) => values.get(id) ?? fail(`%${id} is not defined before`),
  };
  const params: GraphParam[] = [];
  const nodes: Node[] = [];
  let name: string | undefined;
  let results: Record<string, Value> | undefined;
  let parts: OpenPart[] = [];
  let isClosed = false;

  for (const raw of text.split('\n')) {
    line += 1;
    const row = raw.trim();
    if (row === '') continue;
    if (isClosed) fail('nothing follows the graph');
    const [word = ''] = row.split(' ', 1);
    const rest = row.slice(word.length + 1);
    if (word === 'graph') {
      const [graphName, brace] = parseString(rest, fail);
      if (brace !== ' {' || name !== undefined) fail('a graph is: graph "name" {');
      name = graphName;
    } else if (name === undefined) fail('a text starts with: graph "name" {');
    else if (word === '}') isClosed = true;
    else if (word === 'param') {
      const match = /^%([\w.]+): (.+?) = (\w+) (".*)$/s.exec(rest);
      if (match === null) fail('a parameter is: param %id: type = role "name"');
      const [, id = '', type = '', kind = '', tail = ''] = match ?? [];
      const [paramName, more] = parseString(tail, fail);
      parts = [];
      params.push({ name: paramName, value: scope.define(id, parseType(type, fail)), role: parseRole(kind, more, parts, fail) });
    } else if (word === 'rows') parts.push({ rows: Number(rest), sources: [] });
    else if (word === 'from') (parts.at(-1) ?? fail('a source belongs to rows')).sources.push(parseSource(rest, fail));
    else if (word === 'return') results = Object.fromEntries(parseNamed(rest, fail).map(([result, id]) => [result, scope.use(id)]));
    else nodes.push(parseNode(row, scope, fail));
  }
  if (name === undefined || results === undefined || !isClosed) return fail('the graph does not end');
  return { name, params, nodes, results };
}
