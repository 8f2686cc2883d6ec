/** Printed identifiers: readable, unique, and never a reserved word of the target. */
import type { Buffer, Kernel } from '../../ir/kernel/types.ts';
import type { Namer, Words } from './dialect.ts';

const clean = (name: string): string => {
  const s = name.replace(/[^A-Za-z0-9_]+/g, '_').replace(/^_+/, '').replace(/__+/g, '_');
  return /^[A-Za-z]/.test(s) ? s : `v${s}`;
};

/**
 * Buffers are named first, in the order of the parameters; variables then avoid the buffers' names.
 * One IR name gives one printed name throughout the kernel.
 */
export function namer(kernel: Kernel, reserved: Words): Namer {
  const taken = new Set<string>([kernel.name]);
  const buffers = new Map<string, string>();
  const variables = new Map<string, string>();
  const fresh = (name: string): string => {
    const plain = clean(name);
    // A rule may reserve all words with this beginning.
    const base = reserved.has(plain) && reserved.has(`${plain}_1`) ? `v_${plain}` : plain;
    let candidate = base;
    for (let i = 1; taken.has(candidate) || reserved.has(candidate); i++) candidate = `${base.replace(/_$/, '')}_${i}`;
    taken.add(candidate);
    return candidate;
  };
  const named = (table: Map<string, string>, name: string): string => {
    const known = table.get(name);
    if (known !== undefined) return known;
    const made = fresh(name);
    table.set(name, made);
    return made;
  };
  for (const param of kernel.params) named(buffers, param.name);
  return {
    buffer: (buf: Buffer) => named(buffers, buf.name),
    variable: (name: string) => named(variables, name),
  };
}
