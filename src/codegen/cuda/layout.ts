/** Where a kernel's shared buffers lie in the one dynamic array that all kernels use. */
import { accessBytes } from '../../ir/kernel/cost.ts';
import type { Buffer, Kernel } from '../../ir/kernel/types.ts';
import { allocated } from '../../ir/kernel/walk.ts';

/** The widest access; the array itself lies at a multiple of 1024. */
const MIN_ALIGN = 16;

export interface SharedLayout {
  /** Bytes from the beginning of the array, by the buffer's name. */
  readonly offsets: ReadonlyMap<string, number>;
  /** What a launch asks for. */
  readonly bytes: number;
}

const alignUp = (n: number, align: number): number => Math.ceil(n / align) * align;

export function sharedLayout(buffers: readonly Buffer[]): SharedLayout {
  const offsets = new Map<string, number>();
  let bytes = 0;
  for (const buf of buffers) {
    bytes = alignUp(bytes, Math.max(MIN_ALIGN, buf.align ?? 0));
    offsets.set(buf.name, bytes);
    bytes += accessBytes(buf) * buf.size;
  }
  return { offsets, bytes: alignUp(bytes, MIN_ALIGN) };
}

/** Bytes of shared memory that a launch of the kernel asks for. */
export const launchBytes = (kernel: Kernel): number => sharedLayout(allocated(kernel.body).filter((b) => b.scope === 'shared')).bytes;
