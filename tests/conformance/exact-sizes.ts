/**
 * How many elements each buffer of a step really has. The runtime allocates rounded and shared buffers; a kernel
 * must be content with the logical size, so the interpreter backend binds exactly that.
 */
import type { Manifest, ManifestParam, ManifestRef, ManifestSection, ManifestStep, StoredElem } from '../../src/runtime/core/abi.ts';
import { segmentsOf } from '../../src/runtime/core/limits.ts';
import { type Bucket, bucketFor, isTokenIds, scratchName } from '../../src/runtime/core/needs.ts';
import { type SizeEnv, evalSize } from '../../src/runtime/core/size.ts';
import { isQuant, rowBytes } from '../../src/runtime/core/quant.ts';
import { type WeightParam, layerName, matrixOf } from '../../src/runtime/core/weights.ts';

/** What the backend knows of a buffer that is bound. */
export interface Bound {
  readonly label: string;
  readonly bytes: number;
}

/** A step of the manifest that a binding may stand for. */
export interface Place {
  readonly section: ManifestSection;
  readonly bucket: Bucket;
  readonly step: ManifestStep;
  readonly layer: number | null;
}

/** Elements of a row as kernels see them: words, where it is quantised. */
const rowElements = (elem: StoredElem, k: number): number => (isQuant(elem) ? rowBytes(elem, k) / 4 : k);
const isWeight = (p: ManifestParam): p is ManifestParam & WeightParam => p.role.kind === 'weight';

function paramLabels(name: string, param: ManifestParam, segment: number): string {
  if (param.role.kind === 'rope') return `moec:rope/${name}`;
  if (param.role.kind === 'state') return `moec:cache/${name}`;
  const split = isWeight(param) && segmentsOf(param).length > 1;
  return `moec:weight/${name}${split ? `#${segment}` : ''}`;
}

const segmentOf = (step: ManifestStep, name: string): number => (step.segment?.param === name ? step.segment.index : 0);

/** Whether the runtime's label of a buffer is that of what a step refers to. */
function stands(label: string, ref: ManifestRef, { section, bucket, step, layer }: Place): boolean {
  switch (ref.kind) {
    case 'faults':
      return label === 'moec:faults';
    case 'scratch':
      return label === `moec:${scratchName(bucket, ref.slot)}`;
    case 'param': {
      const param = section.params.find((p) => p.name === ref.name);
      return param !== undefined && label === paramLabels(layerName(ref.name, layer), param, segmentOf(step, ref.name));
    }
    case 'io':
      if (isTokenIds(ref.name)) return label === 'moec:ids';
      if (ref.name === 'x' || ref.name === 'y') return label.startsWith('moec:hidden/') || label === 'moec:logits';
      return label === `moec:out/${ref.name}`;
  }
}

/** Every step that runs `kernel` on buffers of these labels. */
export function placesOf(manifest: Manifest, kernel: number, buffers: readonly Bound[]): readonly Place[] {
  const places: Place[] = [];
  for (const { section: index, layer } of manifest.sequence) {
    const section = manifest.sections[index];
    if (section === undefined) throw new Error(`no section ${index}`);
    for (const bucket of section.buckets) {
      for (const step of bucket.steps) {
        const place = { section, bucket, step, layer };
        if (step.kernel !== kernel || step.args.length !== buffers.length) continue;
        if (step.args.every((ref, i) => stands(buffers[i]?.label ?? '', ref, place))) places.push(place);
      }
    }
  }
  return places;
}

/** Elements of the buffer of one argument at one place. */
function elementsAt(place: Place, arg: number, buffer: Bound, env: SizeEnv): number {
  const ref = place.step.args[arg];
  if (ref === undefined) throw new Error(`no argument ${arg}`);
  const { section, bucket, step } = place;
  switch (ref.kind) {
    case 'faults':
      return buffer.bytes / 4;
    case 'scratch':
      return evalSize(bucket.scratch[ref.slot]?.size ?? 0, env);
    case 'io': {
      const io = [...section.inputs, ...section.outputs].find((d) => d.name === ref.name);
      if (io === undefined) throw new Error(`section ${section.name} has no ${ref.name}`);
      return evalSize(io.size, env);
    }
    case 'param': {
      const param = section.params.find((p) => p.name === ref.name);
      if (param === undefined) throw new Error(`section ${section.name} has no parameter ${ref.name}`);
      if (isWeight(param)) return (segmentsOf(param)[segmentOf(step, ref.name)]?.rows ?? 0) * rowElements(param.elem, matrixOf(param).k);
      // A cache holds whole rows; how many, its own size tells.
      const row = param.shape.reduce<number>((n, d) => n * (d === 'cap' ? 1 : d), 1);
      return Math.floor(buffer.bytes / rowBytes(param.elem, row)) * row;
    }
  }
}

/** The exact number of elements of every argument; the most, where several steps bind the same buffers to the same kernel. */
export function exactElements(places: readonly Place[], buffers: readonly Bound[], env: SizeEnv): readonly number[] {
  const live = places.filter((p) => bucketFor(p.section, env.T).bucket === p.bucket);
  if (live.length === 0) throw new Error(`no step of the bucket for ${env.T} tokens binds ${buffers.map((b) => b.label).join(', ')}`);
  return buffers.map((b, i) => Math.max(...live.map((p) => elementsAt(p, i, b, env))));
}
