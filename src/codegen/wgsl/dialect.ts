/**
 * WGSL: how each piece of kernel IR is spelled.
 *
 * Storage in f16 and bf16 needs no device feature: such buffers are arrays of u32 words (two values
 * each), and one generated function per buffer unpacks an access to f32.
 */
import type { Buffer, Elem, ScalarName, Ty } from '../../ir/kernel/types.ts';
import type { Dialect, ModuleParts } from '../clike/dialect.ts';
import { f32Literal } from '../clike/literals.ts';
import { RESERVED_WORDS } from './reserved.ts';

const isPacked = (elem: Elem): boolean => elem === 'f16' || elem === 'bf16';
/** Packed storage is f32 as soon as it is loaded. */
const valueElem = (elem: Elem): string => (isPacked(elem) ? 'f32' : elem);
const ty = (t: Ty): string => (t.lanes === 1 ? valueElem(t.elem) : `vec${t.lanes}<${valueElem(t.elem)}>`);
const scalarField = (name: ScalarName): string => name.replace('.', '_');

function literal(value: number, t: Ty): string {
  switch (t.elem) {
    case 'u32':
      return `${value >>> 0}u`;
    case 'i32':
      return value === -2147483648 ? 'i32(-2147483648)' : `${value | 0}i`;
    case 'bool':
      return value === 0 ? 'false' : 'true';
    case 'f32':
    case 'f16':
    case 'bf16':
      return f32Literal(value);
  }
}

/** The element type of a buffer's array. */
function storageType(buf: Buffer): string {
  if (buf.atomic === true) return 'atomic<u32>';
  if (isPacked(buf.elem)) return buf.lanes === 4 ? 'vec2<u32>' : 'u32';
  return ty({ elem: buf.elem, lanes: buf.lanes });
}

const loader = (name: string): string => `load_${name}`;

/** The function that unpacks one access of a packed buffer. */
function loaderText(buf: Buffer, name: string): string {
  const pair = (word: string): string =>
    buf.elem === 'f16'
      ? `unpack2x16float(${word})`
      : `vec2<f32>(bitcast<f32>(${word} << 16u), bitcast<f32>(${word} & 0xffff0000u))`;
  const head = `fn ${loader(name)}(i: u32) -> ${ty(buf)} {`;
  if (buf.lanes === 4) return `${head}\n  let words = ${name}[i];\n  return vec4<f32>(${pair('words.x')}, ${pair('words.y')});\n}`;
  if (buf.lanes === 2) return `${head}\n  let word = ${name}[i];\n  return ${pair('word')};\n}`;
  return `${head}\n  let word = ${name}[i >> 1u];\n  return ${pair('word')}[i & 1u];\n}`;
}

function module({ kernel, names, shared, builtins, subgroups, body }: ModuleParts): string {
  const lines: string[] = [];
  if (subgroups || builtins.has('lane') || builtins.has('subgroup') || builtins.has('subgroup.size')) {
    lines.push('enable subgroups;', '');
  }
  const params = kernel.params.map((buf, i) => {
    const access = buf.access === 'read' ? 'read' : 'read_write';
    return `@group(0) @binding(${i}) var<storage, ${access}> ${names.buffer(buf)}: array<${storageType(buf)}>;`;
  });
  lines.push(...params);
  if (kernel.scalars.length > 0) {
    lines.push('', `struct Scalars {`, ...kernel.scalars.map((s) => `  ${scalarField(s)}: u32,`), '}');
    lines.push(`@group(0) @binding(${kernel.params.length}) var<uniform> scalars: Scalars;`);
  }
  for (const buf of shared) lines.push('', `var<workgroup> ${names.buffer(buf)}: array<${storageType(buf)}, ${buf.size}>;`);
  for (const buf of kernel.params) {
    if (isPacked(buf.elem) && buf.access === 'read') lines.push('', loaderText(buf, names.buffer(buf)));
  }
  const inputs: string[] = [];
  const uses = (...ids: readonly string[]): boolean => ids.some((id) => (builtins as ReadonlySet<string>).has(id));
  if (uses('block.x', 'block.y', 'block.z')) inputs.push('@builtin(workgroup_id) block_id: vec3<u32>');
  if (uses('grid.x', 'grid.y', 'grid.z')) inputs.push('@builtin(num_workgroups) grid_size: vec3<u32>');
  if (uses('thread', 'subgroup')) inputs.push('@builtin(local_invocation_index) thread: u32');
  if (uses('lane')) inputs.push('@builtin(subgroup_invocation_id) lane: u32');
  if (uses('subgroup', 'subgroup.size')) inputs.push('@builtin(subgroup_size) subgroup_size: u32');
  lines.push('', '@compute', `@workgroup_size(${kernel.block})`, `fn ${kernel.name}(${inputs.join(', ')}) {`, body, '}', '');
  return lines.join('\n');
}

const CALLS: Readonly<Record<string, string>> = { rsqrt: 'inverseSqrt' };
const SUBGROUP_CALLS = { add: 'subgroupAdd', max: 'subgroupMax', min: 'subgroupMin', broadcast: 'subgroupBroadcast' } as const;

export const wgsl: Dialect = {
  reserved: RESERVED_WORDS,
  ty,
  literal,
  builtins: {
    'block.x': 'block_id.x',
    'block.y': 'block_id.y',
    'block.z': 'block_id.z',
    'grid.x': 'grid_size.x',
    'grid.y': 'grid_size.y',
    'grid.z': 'grid_size.z',
    thread: 'thread',
    lane: 'lane',
    // Blocks are one-dimensional, where threads fill subgroups in order.
    subgroup: '(thread / subgroup_size)',
    'subgroup.size': 'subgroup_size',
  },
  scalar: (name) => `scalars.${scalarField(name)}`,
  call(fn, _t, args) {
    if (fn === 'pack.bf16') throw new Error('WGSL packs no bf16');
    return fn === 'pack.f16' ? `pack2x16float(vec2<f32>(${args.join(', ')}))` : `${CALLS[fn] ?? fn}(${args.join(', ')})`;
  },
  cast: (t, from, a) => (isPacked(from.ty.elem) && t.elem === 'f32' ? a : `${ty(t)}(${a})`),
  bitcast: (t, _from, a) => `bitcast<${ty(t)}>(${a})`,
  splat: (t, a) => `${ty(t)}(${a})`,
  pack: (t, args) => `${ty(t)}(${args.join(', ')})`,
  lane: (a, i) => `${a}.${'xyzw'[i] ?? '?'}`,
  select: (_t, cond, a, b) => `select(${b}, ${a}, ${cond})`,
  subgroup: (op, _t, a, lane) => (lane === undefined ? `${SUBGROUP_CALLS[op]}(${a})` : `${SUBGROUP_CALLS[op]}(${a}, ${lane}u)`),
  load(buf, name, index) {
    if (buf.atomic === true) return `atomicLoad(&${name}[${index}])`;
    return isPacked(buf.elem) && buf.scope === 'global' ? `${loader(name)}(${index})` : `${name}[${index}]`;
  },
  store(buf, name, index, value) {
    if (buf.atomic === true) return `atomicStore(&${name}[${index}], ${value});`;
    if (isPacked(buf.elem)) throw new Error(`${name}: kernels do not store packed values in WGSL`);
    return `${name}[${index}] = ${value};`;
  },
  atomic(s, buffer, index, value, result) {
    const text = `atomic${s.op === 'add' ? 'Add' : 'Max'}(&${buffer}[${index}], ${value});`;
    return result === undefined ? text : `let ${result} = ${text}`;
  },
  let: (_t, name, value) => `let ${name} = ${value};`,
  var: (t, name, value) => `var ${name}: ${ty(t)} = ${value};`,
  local: (buf, name) => `var ${name}: array<${ty(buf)}, ${buf.size}>;`,
  for: (name, from, to, step) => [`for (var ${name}: u32 = ${from}; ${name} < ${to}; ${name} += ${step}u)`],
  address(_buf, name) {
    throw new Error(`${name}: WGSL has no addresses`);
  },
  map(name) {
    throw new Error(`${name}: WGSL has no tensor maps`);
  },
  machine(op) {
    throw new Error(`${op} is an instruction of another target`);
  },
  barrier: (_scope, global) => (global ? 'storageBarrier(); workgroupBarrier();' : 'workgroupBarrier();'),
  module,
};
