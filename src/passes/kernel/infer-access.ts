/** Derives the access mode of every parameter: read, write, or both. Atomic buffers are always both. */
import type { Access, Buffer, Kernel } from '../../ir/kernel/types.ts';
import { writtenNames } from '../../ir/kernel/uniformity.ts';
import { mapBuffers, visitExprs } from '../../ir/kernel/walk.ts';

/** A parameter that nothing touches counts as read. */
export function inferAccess(kernel: Kernel): Kernel {
  const written = writtenNames(kernel.body);
  const read = new Set<string>();
  visitExprs(kernel.body, (e) => {
    if (e.k === 'load') read.add(e.buf.name);
  });
  const mode = (buf: Buffer): Access => {
    if (!written.has(buf.name)) return 'read';
    return read.has(buf.name) || buf.atomic === true ? 'read_write' : 'write';
  };
  // One object per buffer, so that equal buffers stay identical.
  const made = new Map<string, Buffer>();
  return mapBuffers(kernel, (buf) => {
    if (buf.scope !== 'global') return buf;
    const known = made.get(buf.name);
    if (known !== undefined) return known;
    const next = { ...buf, access: mode(buf) };
    made.set(buf.name, next);
    return next;
  });
}
