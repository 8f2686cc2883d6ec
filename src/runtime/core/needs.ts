/** What a call needs of device memory beside weights and caches: the one reckoning for the executor and for estimates. */
import type { Manifest, ManifestIo, ManifestSection } from './abi.ts';
import { InternalError } from './errors.ts';
import { type SizeEnv, evalSize } from './size.ts';
import { ELEM_BYTES, storedBytes } from './quant.ts';
import { layerName, weightsOf } from './weights.ts';

export type Bucket = ManifestSection['buckets'][number];

/** Tokens at which scratch slots are compared, to let large ones share a buffer with large ones. */
const TYPICAL_TOKENS = 512;

export const isTokenIds = (name: string): boolean => name === 'ids' || name === 'token_ids';
export const ioBytes = (io: ManifestIo, env: SizeEnv): number => evalSize(io.size, env) * ELEM_BYTES[io.elem];

/** The first bucket that takes `tokens` tokens. */
export function bucketFor(section: ManifestSection, tokens: number): { readonly bucket: Bucket; readonly index: number } {
  const index = section.buckets.findIndex((b) => b.maxTokens === null || tokens <= b.maxTokens);
  const bucket = section.buckets[index];
  if (bucket === undefined) throw new InternalError(`section ${section.name} has no bucket for ${tokens} tokens`);
  return { bucket, index };
}

const ranksOf = new WeakMap<Bucket, readonly number[]>();

/** Rank of each scratch slot of a bucket by typical size: slot i uses the pool's buffer `rank[i]`. */
export function scratchRanks(bucket: Bucket): readonly number[] {
  const known = ranksOf.get(bucket);
  if (known !== undefined) return known;
  const tokens = bucket.maxTokens ?? TYPICAL_TOKENS;
  const env = { T: tokens, past: 0, seq: tokens, cap: tokens };
  const sizes = bucket.scratch.map((s, slot) => ({ slot, bytes: evalSize(s.size, env) * ELEM_BYTES[s.elem] }));
  sizes.sort((a, b) => b.bytes - a.bytes || a.slot - b.slot);
  const ranks: number[] = [];
  sizes.forEach(({ slot }, rank) => {
    ranks[slot] = rank;
  });
  ranksOf.set(bucket, ranks);
  return ranks;
}

export const scratchName = (bucket: Bucket, slot: number): string => `scratch/${scratchRanks(bucket)[slot] ?? slot}`;

/** Adds the bytes that one section needs, by buffer. */
export function addSectionNeeds(needs: Map<string, number>, section: ManifestSection, env: SizeEnv): void {
  const atLeast = (name: string, bytes: number): void => void needs.set(name, Math.max(bytes, needs.get(name) ?? 0));
  const { bucket } = bucketFor(section, env.T);
  bucket.scratch.forEach((s, slot) => atLeast(scratchName(bucket, slot), evalSize(s.size, env) * ELEM_BYTES[s.elem]));
  for (const io of section.inputs) if (isTokenIds(io.name)) atLeast('ids', ioBytes(io, env));
  for (const io of section.outputs) if (io.name !== 'y') atLeast(`out/${io.name}`, ioBytes(io, env));
}

/** Index in `sequence` of the head, or −1 where the program has none. */
export function headEntryOf(manifest: Manifest): number {
  const last = manifest.sequence.length - 1;
  const section = manifest.sections[manifest.sequence[last]?.section ?? -1];
  return manifest.model.kind === 'model' && section?.name === 'head' ? last : -1;
}

export const outputY = (section: ManifestSection): ManifestIo => {
  const io = section.outputs.find((o) => o.name === 'y');
  if (io === undefined) throw new InternalError(`section ${section.name} has no y`);
  return io;
};

/** Bytes of device memory, by what they hold. */
export interface MemoryEstimate {
  readonly weights: number;
  /** Key-value caches and rotary tables for `capacity` tokens. */
  readonly caches: number;
  /** Activations, scratch and results of a call with `tokens` tokens that wants the last token's logits. */
  readonly call: number;
  readonly total: number;
}

/** What a session of `capacity` tokens that calls with `tokens` tokens takes. */
export function estimateMemory(manifest: Manifest, tokens: number, capacity: number): MemoryEstimate {
  let caches = 0;
  const seen = new Set<string>();
  const needs = new Map<string, number>();
  const env = { T: tokens, past: 0, seq: tokens, cap: capacity };
  const head = headEntryOf(manifest);
  manifest.sequence.forEach(({ section: s, layer }, entry) => {
    const section = manifest.sections[s];
    if (section === undefined) return;
    const own = entry === head ? { ...env, T: 1, seq: 1 } : env;
    addSectionNeeds(needs, section, own);
    const y = ioBytes(outputY(section), own);
    if (entry === head) needs.set('logits', y);
    else for (const name of ['hidden/0', 'hidden/1']) needs.set(name, Math.max(y, needs.get(name) ?? 0));
    for (const p of section.params) {
      const name = layerName(p.name, layer);
      if (p.role.kind === 'weight' || seen.has(name)) continue;
      seen.add(name);
      caches += storedBytes(p.elem, p.shape.map((d) => (d === 'cap' ? capacity : d)));
    }
  });
  let weights = 0;
  for (const { param } of weightsOf(manifest.sections, manifest.sequence)) {
    weights += storedBytes(param.elem, param.shape.map(Number));
  }
  const call = [...needs.values()].reduce((a, b) => a + b, 0);
  return { weights, caches, call, total: weights + caches + call };
}
