/** Readable text of kernel IR, of both levels. For people, snapshots and fault messages; it is not read back. */
import { assertNever } from '../../base/assert-never.ts';
import type { Block, BlockOperand, Buffer, Expr, Kernel, MachineArg, MainloopSchedule, Stmt, Tile, Ty, View } from './types.ts';

export const printTy = (t: Ty): string => (t.lanes === 1 ? t.elem : `${t.elem}x${t.lanes}`);

function number(value: number, t: Ty): string {
  if (t.elem === 'bool') return value === 0 ? 'false' : 'true';
  if (t.elem === 'u32' || t.elem === 'i32') return String(value);
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? `${Object.is(value, -0) ? '-0' : value}.0` : String(value);
}

export function printExpr(e: Expr): string {
  const inner = (x: Expr): string => (x.k === 'bin' && x.op !== 'min' && x.op !== 'max' ? `(${printExpr(x)})` : printExpr(x));
  const list = (xs: readonly Expr[]): string => xs.map(printExpr).join(', ');
  switch (e.k) {
    case 'const':
      return number(e.value, e.ty) + (e.ty.lanes === 1 ? '' : `x${e.ty.lanes}`);
    case 'var':
      return e.name;
    case 'builtin':
      return e.id;
    case 'scalar':
      return `%${e.name}`;
    case 'un':
      return `${e.op === 'neg' ? '-' : '!'}${inner(e.a)}`;
    case 'bin':
      return e.op === 'min' || e.op === 'max' ? `${e.op}(${list([e.a, e.b])})` : `${inner(e.a)} ${e.op} ${inner(e.b)}`;
    case 'call':
      return `${e.fn}(${list(e.args)})`;
    case 'cast':
      return `${printTy(e.ty)}(${printExpr(e.a)})`;
    case 'bitcast':
      return `bits.${printTy(e.ty)}(${printExpr(e.a)})`;
    case 'lane':
      return `${inner(e.a)}.${'xyzw'[e.i] ?? e.i}`;
    case 'splat':
    case 'pack':
      return `${printTy(e.ty)}(${e.k === 'splat' ? printExpr(e.a) : list(e.args)})`;
    case 'select':
      return `select(${list([e.cond, e.a, e.b])})`;
    case 'load':
      return `${e.buf.name}[${printExpr(e.index)}]`;
    case 'subgroup':
      return `subgroup.${e.op}(${printExpr(e.a)}${e.lane === undefined ? '' : `, ${e.lane}`})`;
    default:
      return assertNever(e);
  }
}

const printTile = (t: Tile): string => `${t.name}[${t.count}][${t.rows}, ${t.cols}]`;

function printView(v: View): string {
  const guard = v.guard === undefined ? '' : ` where ${printExpr(v.guard)}`;
  const packed = v.packed === undefined ? '' : ` int${v.packed.format.bits}, ${v.packed.format.scales} scales at ${printExpr(v.packed.scale)}`;
  return `(${v.row}, ${v.col}) => ${v.buf.name}[${printExpr(v.index)}]${packed}${guard}`;
}

function printSchedule(s: MainloopSchedule): string {
  if (s.variant === 'fma') return `${s.staging} ${s.tm}x${s.tn} bk ${s.bk}`;
  return `${s.variant} ${s.variant === 'mma-sync' ? `${s.warpsM}x${s.warpsN}` : s.consumers} bk ${s.bk} stages ${s.stages}`;
}

function printArg(a: MachineArg): string {
  switch (a.k) {
    case 'value':
      return printExpr(a.value);
    case 'address':
      return `&${a.buf.name}[${printExpr(a.index)}]`;
    case 'immediate':
      return String(a.value);
    case 'map':
      return `map ${a.name}`;
  }
}

const printBlock = (x: Block): string => `${x.name}[${x.rows}, ${x.cols}]`;
const printOperand = (x: BlockOperand): string => `${x.block.name}${x.transposed ? ' transposed' : ''}`;

/** The first line of a statement; nested bodies are left out. */
export function printHead(s: Stmt): string {
  switch (s.k) {
    case 'let':
    case 'var':
      return `${s.k} ${s.name}: ${printTy(s.value.ty)} = ${printExpr(s.value)}`;
    case 'assign':
      return `${s.name} = ${printExpr(s.value)}`;
    case 'alloc':
      return `alloc ${printBuffer(s.buf)}`;
    case 'store':
      return `${s.buf.name}[${printExpr(s.index)}] = ${printExpr(s.value)}`;
    case 'for':
      return `for ${s.name} in ${printExpr(s.from)} .. ${printExpr(s.to)} step ${s.step}${s.unroll === false ? '' : s.unroll === true ? ' unroll' : ` unroll ${s.unroll}`}`;
    case 'if':
      return `if ${printExpr(s.cond)}`;
    case 'barrier':
      return `barrier ${s.scope}`;
    case 'atomic': {
      const result = s.result === undefined ? '' : `let ${s.result} = `;
      return `${result}atomic.${s.op} ${s.buf.name}[${printExpr(s.index)}], ${printExpr(s.value)}`;
    }
    case 'note':
      return `// ${s.text.replace(/[^\x20-\x7e]+/g, '?')}`;
    case 'tile.alloc':
      return `tile.alloc ${printTile(s.tile)}`;
    case 'tile.mainloop': {
      const operands = [s.a, ...s.b].map(printView).join(' ; ');
      return `tile.mainloop ${s.tile.name} += ${operands} depth ${s.depth} {${printSchedule(s.schedule)}}`;
    }
    case 'tile.map':
      return `tile.map ${s.tile.name} (${[s.row, s.col, ...s.values].join(', ')})${s.lanes === 1 ? '' : ` x${s.lanes}`}`;
    case 'machine':
      return `machine ${s.op}(${s.args.map(printArg).join(', ')})`;
    case 'tile.reduce':
      return `let ${s.name}: ${printTy(s.value.ty)} = tile.reduce.${s.op} ${printExpr(s.value)}`;
    case 'tile.stage':
      return `tile.stage ${printBlock(s.block)} = ${printView(s.view)} {${s.block.variant} ${s.block.elem}}`;
    case 'tile.await':
      return 'tile.await';
    case 'tile.product': {
      const a = s.a.k === 'block' ? s.a.block.name : printTile(s.a.tile);
      return `tile.product ${s.tile.name} += ${[a, ...s.b.map(printOperand)].join(' ; ')} {${printSchedule(s.schedule)}}`;
    }
    case 'tile.row':
      return `tile.row ${s.tile.name} (${s.row}) ${s.assign ? '' : 'let '}${s.name} = ${printExpr(s.value)}`;
    case 'tile.fold':
      return `tile.fold ${s.tile.name} (${[s.row, s.col, ...s.values].join(', ')}) let ${s.name} = ${s.op} ${printExpr(s.value)}`;
    case 'tile.update':
      return `tile.update ${s.tile.name} (${[s.row, s.col, ...s.values].join(', ')}) = ${s.to.map(printExpr).join(', ')}`;
    default:
      return assertNever(s);
  }
}

function printBuffer(buf: Buffer): string {
  const size = buf.scope === 'global' ? '' : `[${buf.size}]`;
  const marks = [buf.scope, ...(buf.atomic === true ? ['atomic'] : []), ...(buf.access === undefined ? [] : [buf.access])];
  return `${buf.name}: ${printTy({ elem: buf.elem, lanes: buf.lanes })}${size} ${marks.join(' ')}`;
}

function lines(body: readonly Stmt[], pad: string): string[] {
  return body.flatMap((s) => {
    const head = pad + printHead(s);
    const nested = (inner: readonly Stmt[]): string[] => lines(inner, `${pad}  `);
    switch (s.k) {
      case 'for':
      case 'tile.map':
        return [`${head} {`, ...nested(s.body), `${pad}}`];
      case 'if':
        return [`${head} {`, ...nested(s.then), ...(s.else.length === 0 ? [] : [`${pad}} else {`, ...nested(s.else)]), `${pad}}`];
      default:
        return [head];
    }
  });
}

export const printStmts = (body: readonly Stmt[]): string => lines(body, '').join('\n');

/** The whole kernel, ending in a newline. */
export function printKernel(kernel: Kernel): string {
  const schedule = Object.entries(kernel.schedule).map(([k, v]) => `${k}=${v}`).join(' ');
  const head = [
    `kernel ${kernel.name} // ${kernel.family}${schedule === '' ? '' : ` {${schedule}}`}`,
    `  block ${kernel.block}${kernel.scalars.length === 0 ? '' : `, scalars ${kernel.scalars.join(' ')}`}`,
    ...kernel.params.map((p) => `  param ${printBuffer(p)}`),
  ];
  return `${[...head, '{', ...lines(kernel.body, '  '), '}'].join('\n')}\n`;
}
