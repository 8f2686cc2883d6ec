/** Sizes of the manifest as numbers. */
import type { Size, SizeSymbol } from './abi.ts';

export type SizeEnv = Readonly<Record<SizeSymbol, number>>;

export function evalSize(size: Size, env: SizeEnv): number {
  if (typeof size === 'number') return size;
  if (typeof size === 'string') return env[size];
  const a = evalSize(size.a, env);
  const b = evalSize(size.b, env);
  switch (size.op) {
    case '+':
      return a + b;
    case '*':
      return a * b;
    case 'ceildiv':
      return Math.ceil(a / b);
    case 'min':
      return Math.min(a, b);
    case 'max':
      return Math.max(a, b);
  }
}

/** `bytes` rounded up to what a binding of any element and lane count can use; never 0. */
export const bindingBytes = (bytes: number): number => Math.max(16, Math.ceil(bytes / 16) * 16);
