/** Reads a manifest: JSON from a package, checked before it is believed. */
import { ABI_VERSION, type Manifest } from './abi.ts';
import { PackageError, quote } from './errors.ts';
import { isQuant, QUANT_GROUP, QUANT_NAMES } from './quant.ts';

type Check = (value: unknown, path: string) => void;

function refuse(path: string, wanted: string, value: unknown): never {
  const shown = value === undefined ? 'nothing' : quote(JSON.stringify(value) ?? typeof value, 40);
  throw new PackageError(`manifest.json: ${path} should be ${wanted}, found ${shown}`, { details: { path, wanted }, fix: 'compile the package again' });
}

const text: Check = (v, p) => void (typeof v === 'string' || refuse(p, 'a text', v));
const whole: Check = (v, p) => void ((typeof v === 'number' && Number.isSafeInteger(v) && v >= 0) || refuse(p, 'a whole number', v));
const real: Check = (v, p) => void ((typeof v === 'number' && Number.isFinite(v)) || refuse(p, 'a number', v));
const bool: Check = (v, p) => void (typeof v === 'boolean' || refuse(p, 'true or false', v));
const oneOf = (...words: readonly unknown[]): Check => (v, p) => void (words.includes(v) || refuse(p, words.map((w) => JSON.stringify(w)).join(' or '), v));
const nullable = (check: Check): Check => (v, p) => v === null || check(v, p);
const optional = (check: Check): Check => (v, p) => v === undefined || check(v, p);
const list = (check: Check): Check => (v, p) => {
  if (!Array.isArray(v)) refuse(p, 'a list', v);
  v.forEach((item, i) => check(item, `${p}[${i}]`));
};
const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v);
const object = (members: Readonly<Record<string, Check>>): Check => (v, p) => {
  if (!isObject(v)) refuse(p, 'an object', v);
  for (const [key, check] of Object.entries(members)) check(Object.hasOwn(v, key) ? v[key] : undefined, p === '' ? key : `${p}.${key}`);
};
const mapOf = (check: Check): Check => (v, p) => {
  if (!isObject(v)) refuse(p, 'an object', v);
  for (const [key, value] of Object.entries(v)) check(value, `${p}.${quote(key, 40)}`);
};
const byKind = (kinds: Readonly<Record<string, Check>>): Check => (v, p) => {
  const kind = isObject(v) ? v['kind'] : undefined;
  const check = typeof kind === 'string' && Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (check === undefined) refuse(`${p}.kind`, Object.keys(kinds).join(' or '), kind);
  check(v, p);
};

const elem = oneOf('f32', 'f16', 'bf16', 'u32', 'i32');
const stored = oneOf('f32', 'f16', 'bf16', 'u32', 'i32', ...QUANT_NAMES);
const MAX_SIZE_DEPTH = 64;
const sizeAt = (depth: number): Check => (v, p) => {
  if (typeof v === 'number') return whole(v, p);
  if (typeof v === 'string') return oneOf('T', 'past', 'seq', 'cap')(v, p);
  if (depth > MAX_SIZE_DEPTH) refuse(p, 'a simpler size', v);
  object({ op: oneOf('+', '*', 'ceildiv', 'min', 'max'), a: sizeAt(depth + 1), b: sizeAt(depth + 1) })(v, p);
};
const size = sizeAt(0);
const axis = object({ start: whole, step: whole });
const source = object({ name: text, requires: optional(text), shape: list(whole), bankRows: optional(whole), n: object({ axis: oneOf(0, 1), start: whole, step: whole }), k: axis });
const part = object({ rows: whole, sources: list(source) });
const param = object({
  name: text,
  shape: list((v, p) => v === 'cap' || whole(v, p)),
  elem: stored,
  role: byKind({ weight: object({ parts: list(part) }), rope: object({ inverseFrequencies: list(real), scale: real }), state: object({}) }),
  segmentRows: optional(whole),
});
const ref = byKind({ param: object({ name: text }), scratch: object({ slot: whole }), io: object({ name: text }), faults: object({}) });
const step = object({
  kernel: whole,
  args: list(ref),
  grid: list(size),
  constants: mapOf(whole),
  segment: optional(object({ param: text, index: whole })),
  op: text,
  group: text,
});
const io = object({ name: text, elem, size, perToken: whole });
const section = object({
  name: text,
  params: list(param),
  inputs: list(io),
  outputs: list(io),
  buckets: list(object({ device: optional(object({ subgroupSize: optional(whole), adapter: optional(text) })), maxTokens: nullable(whole), steps: list(step), scratch: list(object({ elem, size })) })),
});
const kernel = object({
  name: text,
  family: text,
  block: whole,
  sharedBytes: whole,
  scalars: list(text),
  access: list(oneOf('read', 'write', 'read_write')),
  variants: list(object({ file: text, entry: text, requires: object({ features: list(text), subgroupSize: optional(whole) }) })),
});
const tuned = object({ adapter: text, kernel: text, tokens: whole, above: whole, defaultMs: real, tunedMs: real, noise: real, schedule: text });
const manifest = object({
  generator: text,
  target: oneOf('webgpu', 'cuda'),
  spec: text,
  model: object({
    name: text,
    kind: oneOf('model', 'layer'),
    hidden: whole,
    vocab: nullable(whole),
    context: nullable(whole),
    layers: whole,
    params: object({ total: whole, active: whole }),
    needsTokenIds: bool,
    hasRouter: bool,
    slots: whole,
    experts: whole,
  }),
  kernels: list(kernel),
  sections: list(section),
  sequence: list(object({ section: whole, layer: nullable(whole) })),
  limits: object({ profile: text, maxBindingBytes: whole, maxBindings: whole, maxThreadsPerBlock: whole, maxSharedBytes: whole, weightBytes: whole }),
  passes: list(text),
  tuned: optional(list(tuned)),
  cuda: optional(object({ arch: oneOf('sm_80', 'sm_90a'), directory: text, parts: list(text), module: text, sources: text })),
  files: mapOf(text),
});

/** Indices that the shapes above cannot say: kernels, sections, slots, counts of arguments. */
function checkReferences(m: Manifest): void {
  const bad = (what: string): never => {
    throw new PackageError(`manifest.json: ${what}`, { fix: 'compile the package again' });
  };
  for (const s of m.sequence) if (m.sections[s.section] === undefined) bad(`no section ${s.section}`);
  if ((m.target === 'cuda') !== (m.cuda !== undefined)) bad('a package has the member cuda where that is its target');
  for (const k of m.kernels) if (k.variants.length === 0) bad(`kernel ${quote(k.name)} has no variant`);
  for (const s of m.sections) {
    const last = s.buckets[s.buckets.length - 1];
    if (last === undefined || last.maxTokens !== null || last.device !== undefined) bad(`section ${quote(s.name)} has no bucket for any number of tokens on any device`);
    for (const p of s.params) {
      const depth = p.shape.at(-1);
      const whole = p.role.kind === 'weight' && p.shape.length >= 2 && typeof depth === 'number' && depth % QUANT_GROUP === 0;
      if (isQuant(p.elem) && !whole) bad(`parameter ${quote(p.name)} has no rows of whole groups to be stored as ${p.elem}`);
    }
    const params = new Set(s.params.map((p) => p.name));
    const ios = new Set([...s.inputs, ...s.outputs].map((x) => x.name));
    for (const bucket of s.buckets) {
      for (const st of bucket.steps) {
        const k = m.kernels[st.kernel];
        if (k === undefined || k.access.length !== st.args.length || st.grid.length !== 3) bad(`a step of section ${quote(s.name)} does not fit its kernel`);
        for (const a of st.args) {
          if (a.kind === 'scratch' && bucket.scratch[a.slot] === undefined) bad(`section ${quote(s.name)} has no scratch slot ${a.slot}`);
          if (a.kind === 'param' && !params.has(a.name)) bad(`section ${quote(s.name)} has no parameter ${quote(a.name)}`);
          if (a.kind === 'io' && !ios.has(a.name)) bad(`section ${quote(s.name)} has no input or output ${quote(a.name)}`);
        }
      }
    }
  }
}

const isManifest = (value: unknown): value is Manifest => {
  manifest(value, '');
  return true;
};

/** @throws PackageError where the version differs or a member is not what it should be */
export function readManifest(value: unknown): Manifest {
  if (!isObject(value)) refuse('the document', 'an object', value);
  const abi = value['abi'];
  if (abi !== ABI_VERSION) {
    throw new PackageError(`this package speaks version ${quote(String(abi), 20)} of the runtime's contract, the runtime version ${ABI_VERSION}`, {
      details: { found: abi, expected: ABI_VERSION },
      fix: 'compile the package again with the moec that runs it',
    });
  }
  if (!isManifest(value)) return refuse('the document', 'a manifest', value);
  checkReferences(value);
  return value;
}
