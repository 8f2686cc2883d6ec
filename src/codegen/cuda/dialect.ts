/**
 * CUDA C++: how each piece of kernel IR is spelled.
 *
 * Values of f16 and bf16 storage are f32 as soon as they are loaded and are rounded when they are stored; words of two and
 * four numbers are unpacked by the prelude. All operators on vectors, and all machine instructions, are the prelude's.
 */
import type { Buffer, Elem, Expr, Fn, Kernel, ScalarName, Ty } from '../../ir/kernel/types.ts';
import type { Dialect, ModuleParts } from '../clike/dialect.ts';
import { f32Literal } from '../clike/literals.ts';
import { sharedLayout } from './layout.ts';
import { reserved } from './reserved.ts';

type Half = 'f16' | 'bf16';
const isHalf = (elem: Elem): elem is Half => elem === 'f16' || elem === 'bf16';

const SCALARS: Readonly<Record<Elem, string>> = { f32: 'float', f16: 'float', bf16: 'float', u32: 'uint32_t', i32: 'int32_t', bool: 'bool' };
const VECTORS: Readonly<Record<Elem, string>> = { f32: 'float', f16: 'float', bf16: 'float', u32: 'uint', i32: 'int', bool: 'bool' };

/** The type of a value. */
const ty = (t: Ty): string => (t.lanes === 1 ? SCALARS[t.elem] : `${VECTORS[t.elem]}${t.lanes}`);

const HALF_WORDS = { 1: 'uint16_t', 2: 'uint32_t', 4: 'uint2' } as const;
/** The type of one access in memory. */
const storageType = (buf: Buffer): string => (isHalf(buf.elem) ? HALF_WORDS[buf.lanes] : ty(buf));
/** Whether an access is packed in memory; registers hold values. */
const isPacked = (buf: Buffer): buf is Buffer & { readonly elem: Half } => isHalf(buf.elem) && buf.scope !== 'register';

function literal(value: number, t: Ty): string {
  switch (t.elem) {
    case 'u32':
      return `${value >>> 0}u`;
    case 'i32':
      // The digits alone are no int.
      return value === -2147483648 ? '(-2147483647 - 1)' : String(value | 0);
    case 'bool':
      return value === 0 ? 'false' : 'true';
    case 'f32':
    case 'f16':
    case 'bf16':
      return f32Literal(value);
  }
}

const scalarName = (name: ScalarName): string => name.replace('.', '_');

/** Where the function of one float is not the name and an `f`. */
const FLOAT_CALLS: Readonly<Partial<Record<Fn | 'min' | 'max', string>>> = { abs: 'fabsf', exp2: 'moec_exp2', min: 'fminf', max: 'fmaxf' };

function call(fn: Fn | 'min' | 'max', t: Ty, args: readonly string[]): string {
  const list = args.join(', ');
  if (fn === 'pack.f16' || fn === 'pack.bf16') return `moec_${fn.replace('.', '_')}(${list})`;
  if (t.lanes > 1) return `moec_${fn}(${list})`;
  return t.elem === 'f32' ? `${FLOAT_CALLS[fn] ?? `${fn}f`}(${list})` : `${fn}(${list})`;
}

/** An expression that stands for itself where a conversion does nothing. */
const grouped = (a: string): string => (/^\w+$/.test(a) ? a : `(${a})`);

/** The prelude's conversions: towards zero and clamped to the range, as on the other targets. */
function cast(t: Ty, { k, ty: from }: Expr, a: string): string {
  if (ty(t) === ty(from)) return k === 'bin' || k === 'un' ? grouped(a) : a;
  if (t.elem === 'bool') throw new Error('a condition is made by comparing, not by a conversion');
  return `moec_to_${VECTORS[t.elem]}(${a})`;
}

const BITS: Readonly<Partial<Record<Elem, string>>> = { f32: 'moec_float', u32: 'moec_bits', i32: 'moec_int' };

const bitcast = (t: Ty, from: Ty, a: string): string => (t.elem === from.elem ? grouped(a) : `${BITS[t.elem] ?? '?'}(${a})`);

function param(buf: Buffer, name: string): string {
  return `${buf.access === 'read' ? 'const ' : ''}${storageType(buf)}* __restrict__ ${name}`;
}

/** `a` and what of the builtins and scalars the body reads, then the body. */
function frame({ kernel, names, shared, builtins, scalars }: ModuleParts): string[] {
  const lines = kernel.scalars.flatMap((s, i) => (scalars.has(s) ? [`const uint32_t ${scalarName(s)} = scalars[${i}];`] : []));
  if (builtins.has('thread')) lines.push('const uint32_t thread = threadIdx.x;');
  if (builtins.has('lane')) lines.push('const uint32_t lane = threadIdx.x % 32u;');
  if (builtins.has('subgroup')) lines.push('const uint32_t warp = threadIdx.x / 32u;');
  const { offsets } = sharedLayout(shared);
  for (const buf of shared) {
    const type = storageType(buf);
    lines.push(`${type}* const ${names.buffer(buf)} = reinterpret_cast<${type}*>(moec_smem + ${offsets.get(buf.name) ?? 0});`);
  }
  return lines.map((line) => `  ${line}`);
}

/** The parameters' types and names, in the order in which a launch gives them. */
function params(kernel: Kernel, names: ModuleParts['names']): string[] {
  return [
    ...kernel.params.map((buf) => param(buf, names.buffer(buf))),
    ...(kernel.scalars.length > 0 ? ['const uint32_t* __restrict__ scalars'] : []),
    ...(kernel.tensorMaps ?? []).map((m) => `const __grid_constant__ CUtensorMap ${names.variable(m.name)}`),
  ];
}

function module(parts: ModuleParts): string {
  const { kernel, names, body } = parts;
  const list = params(kernel, names).map((p) => `    ${p}`).join(',\n');
  // Without a number of blocks, ptxas saves registers for as many as there can be, and waits for each load before the next.
  const bounds = kernel.resident === undefined ? `${kernel.block}` : `${kernel.block}, ${kernel.resident}`;
  const head = `__global__ void __launch_bounds__(${bounds}) ${kernel.name}(${list === '' ? '' : `\n${list}`}) {`;
  return ['#pragma once', '', head, ...frame(parts), body, '}', ''].join('\n');
}

export const cuda: Dialect = {
  reserved,
  ty,
  literal,
  builtins: {
    'block.x': 'blockIdx.x',
    'block.y': 'blockIdx.y',
    'block.z': 'blockIdx.z',
    'grid.x': 'gridDim.x',
    'grid.y': 'gridDim.y',
    'grid.z': 'gridDim.z',
    thread: 'thread',
    lane: 'lane',
    subgroup: 'warp',
    'subgroup.size': '32u',
  },
  scalar: scalarName,
  call,
  cast,
  bitcast,
  splat: (t, a) => (t.lanes === 1 ? grouped(a) : `moec_splat${t.lanes}(${a})`),
  pack: (t, args) => (t.lanes === 1 ? grouped(args.join(', ')) : `make_${ty(t)}(${args.join(', ')})`),
  lane: (a, i) => `${a}.${'xyzw'[i] ?? '?'}`,
  select: (t, cond, a, b) => (t.lanes === 1 ? `(${cond} ? ${a} : ${b})` : `moec_select(${cond}, ${a}, ${b})`),
  subgroup: (op, _t, a, lane) => (lane === undefined ? `moec_warp_${op}(${a})` : `moec_warp_${op}(${a}, ${lane}u)`),
  load(buf, name, index) {
    const access = buf.streamed === true && buf.access === 'read' ? `moec_load_stream(&${name}[${index}])` : `${name}[${index}]`;
    if (!isPacked(buf)) return access;
    return buf.lanes === 1 ? `moec_f32_of_${buf.elem}(${access})` : `moec_unpack_${buf.elem}(${access})`;
  },
  store(buf, name, index, value) {
    const access = `${name}[${index}]`;
    if (!isPacked(buf)) return `${access} = ${value};`;
    return buf.lanes === 1 ? `${access} = moec_${buf.elem}_of(${value});` : `${access} = moec_pack_${buf.elem}(${value});`;
  },
  atomic(s, buffer, index, value, result) {
    const text = `atomic${s.op === 'add' ? 'Add' : 'Max'}(&${buffer}[${index}], ${value});`;
    return result === undefined ? text : `const uint32_t ${result} = ${text}`;
  },
  let: (t, name, value) => `const ${ty(t)} ${name} = ${value};`,
  var: (t, name, value) => `${ty(t)} ${name} = ${value};`,
  local: (buf, name) => `${ty(buf)} ${name}[${buf.size}];`,
  for(name, from, to, step, unroll) {
    const head = `for (uint32_t ${name} = ${from}; ${name} < ${to}; ${name} += ${step}u)`;
    return unroll === false ? [head] : [unroll === true ? '#pragma unroll' : `#pragma unroll ${unroll}`, head];
  },
  barrier: (scope) => (scope === 'block' ? '__syncthreads();' : '__syncwarp();'),
  address: (_buf, name, index) => `&${name}[${index}]`,
  map: (name) => `&${name}`,
  machine(op, immediates, args) {
    const template = immediates.length === 0 ? '' : `<${immediates.join(', ')}>`;
    return `moec_${op}${template}(${args.join(', ')});`;
  },
  module,
};
