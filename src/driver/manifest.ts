/** The manifest of a compiled program: what the runtime needs, and nothing the compiler alone knows. */
import { stableHash } from '../base/hash.ts';
import { CUDA_DIRECTORY } from '../codegen/cuda/module.ts';
import type { Dim } from '../ir/graph/types.ts';
import type { Kernel } from '../ir/kernel/types.ts';
import type { ParamDecl, Program, Section } from '../lower/program.ts';
import { analyze } from '../model/index.ts';
import type { Spec } from '../model/types.ts';
import { ABI_VERSION, type ElemName, type Manifest, type ManifestKernel, type ManifestModel, type ManifestParam, type ManifestSection, type ManifestTuned } from '../runtime/core/abi.ts';
import { storedBytes } from '../runtime/core/quant.ts';
import { weightsOf } from '../runtime/core/weights.ts';
import type { Capabilities } from '../target/types.ts';
import type { CompiledKernel, KernelTable, KernelVariant } from './kernels.ts';

const elemName = (elem: string): ElemName => {
  if (elem === 'f32' || elem === 'f16' || elem === 'bf16' || elem === 'u32' || elem === 'i32') return elem;
  throw new Error(`a buffer of ${elem} cannot be bound`);
};

function shapeOf(param: ParamDecl): readonly (number | 'cap')[] {
  const type = param.value.type;
  if (type.kind !== 'tensor') throw new Error(`parameter ${param.name} is not a tensor`);
  return type.shape.map((d: Dim) => {
    if (typeof d === 'number' || d === 'cap') return d;
    throw new Error(`parameter ${param.name} has the run-time dim ${d}`);
  });
}

function paramOf(param: ParamDecl): ManifestParam[] {
  if (param.role.kind === 'input') return [];
  const segment = param.segmentRows === undefined ? {} : { segmentRows: param.segmentRows };
  return [{ name: param.name, shape: shapeOf(param), elem: param.elem, role: param.role, ...segment }];
}

function sectionOf(section: Section, table: KernelTable): ManifestSection {
  const io = (d: Section['inputs'][number]): ManifestSection['inputs'][number] => ({ name: d.name, elem: elemName(d.elem), size: d.size, perToken: d.perToken });
  return {
    name: section.name,
    params: section.params.flatMap(paramOf),
    inputs: section.inputs.map(io),
    outputs: section.outputs.map(io),
    buckets: section.buckets.map((b) => ({
      ...(b.device === undefined ? {} : { device: b.device }),
      maxTokens: b.maxTokens ?? null,
      scratch: b.scratch.map((s) => ({ elem: elemName(s.elem), size: s.size })),
      steps: b.steps.map((s) => ({
        kernel: table.indexOf(s.kernel),
        args: s.args,
        grid: s.grid,
        constants: s.constants as Readonly<Record<string, number>>,
        ...(s.segment === undefined ? {} : { segment: s.segment }),
        op: s.op,
        group: s.group,
      })),
    })),
  };
}

/** Where a kernel variant's text lies in a package. */
function kernelFile(index: number, family: string, variant: KernelVariant['name']): string {
  const stem = `kernels/k${index}_${family.replace(/[^a-z0-9]+/gi, '_')}`;
  return variant === 'cuda' ? `${CUDA_DIRECTORY}/${stem}.cuh` : `${stem}.${variant}.wgsl`;
}

const accessOf = (kernel: Kernel): ('read' | 'write' | 'read_write')[] => kernel.params.map((p) => p.access ?? 'read_write');

function kernelOf(k: CompiledKernel, index: number): ManifestKernel {
  const finished = k.variants.map((v) => v.kernel);
  return {
    name: k.source.name,
    family: k.source.family,
    block: k.source.block,
    sharedBytes: Math.max(...k.variants.map((v) => v.sharedBytes)),
    scalars: k.source.scalars,
    access: accessOf(finished[finished.length - 1] ?? k.source),
    variants: k.variants.map((v) => ({
      file: kernelFile(index, k.source.family, v.name),
      entry: v.kernel.name,
      requires: { features: v.features, ...(v.subgroupSize === undefined ? {} : { subgroupSize: v.subgroupSize }) },
    })),
  };
}

function modelOf(spec: Spec): ManifestModel {
  const { params } = analyze(spec, 1);
  const ffns = spec.kind === 'model' ? spec.kinds.map((k) => k.ffn) : [spec.ffn];
  const moe = ffns.find((f) => f.kind === 'moe');
  const slots = moe?.kind !== 'moe' ? 0 : moe.router.select.kind === 'expert-choice' ? moe.experts : moe.active;
  return {
    name: spec.name,
    kind: spec.kind,
    hidden: spec.hidden,
    vocab: spec.vocab ?? null,
    context: spec.kind === 'model' ? spec.context : null,
    layers: spec.kind === 'model' ? spec.layers.length : 1,
    params: { total: params.total, active: params.active },
    needsTokenIds: spec.kind === 'layer' && spec.ffn.kind === 'moe' && spec.ffn.router.select.kind === 'hash',
    hasRouter: moe !== undefined,
    slots,
    experts: moe?.kind === 'moe' ? moe.experts : 0,
  };
}

/** Bytes of all weights, each canonical parameter of each layer counted once. */
function weightBytes({ sections, sequence }: Pick<Manifest, 'sections' | 'sequence'>): number {
  let total = 0;
  for (const { param } of weightsOf(sections, sequence)) total += storedBytes(param.elem, param.shape.map(Number));
  return total;
}

export interface ManifestInput {
  readonly spec: Spec;
  readonly program: Program;
  readonly table: KernelTable;
  readonly caps: Capabilities;
  readonly passes: readonly string[];
  readonly generator: string;
  readonly tuned: readonly ManifestTuned[];
}

/** The manifest without the per-file digests, which the package adds. */
export function buildManifest(input: ManifestInput): Manifest {
  const { spec, program, table, caps } = input;
  const kernels = table.kernels.map(kernelOf);
  const sections = program.sections.map((s) => sectionOf(s, table));
  const sequence = program.sequence.map((s) => ({ section: s.section, layer: s.layer ?? null }));
  const bindings = table.kernels.map((k) => k.source.params.length);
  return {
    abi: ABI_VERSION,
    generator: input.generator,
    target: caps.target,
    spec: stableHash(stripSpans(spec)),
    model: modelOf(spec),
    kernels,
    sections,
    sequence,
    limits: {
      profile: caps.profile,
      maxBindingBytes: caps.maxBindingBytes,
      maxBindings: Math.max(0, ...bindings),
      maxThreadsPerBlock: Math.max(1, ...kernels.map((k) => k.block)),
      maxSharedBytes: Math.max(0, ...kernels.map((k) => k.sharedBytes)),
      weightBytes: weightBytes({ sections, sequence }),
    },
    passes: input.passes,
    ...(input.tuned.length === 0 ? {} : { tuned: input.tuned }),
    files: {},
  };
}

/** The spec without places: moving a line in the file must not change the package. */
function stripSpans(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(stripSpans);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).filter(([k]) => k !== 'span').map(([k, v]) => [k, stripSpans(v)]));
}
