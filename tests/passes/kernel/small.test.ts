/** The small passes: unique names, access modes. */
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { printStmts } from '../../../src/ir/kernel/print.ts';
import type { Buffer } from '../../../src/ir/kernel/types.ts';
import { verify } from '../../../src/ir/kernel/verify.ts';
import { inferAccess } from '../../../src/passes/kernel/infer-access.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { uniqueNames } from '../../../src/passes/kernel/unique-names.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';

const y = global('y', 'u32');
const t = b.thread;

describe('uniqueNames', () => {
  it('tells sibling and later bindings apart and keeps the first name', () => {
    const x = b.variable('x');
    const k = uniqueNames(kernel([y], [
      b.for_('i', b.u32(0), b.u32(2), 1, (i) => [b.let_('x', i), b.store(y, x, i)]),
      b.for_('i', b.u32(0), b.u32(3), 1, (i) => [b.var_('x', i), b.assign('x', b.add(x, i)), b.store(y, x, i)]),
      b.let_('x', t), b.let_('x', b.add(x, b.u32(1))), b.store(y, x, x),
    ]));
    expect(printStmts(k.body)).toBe([
      'for i in 0 .. 2 step 1 {', '  let x: u32 = i', '  y[x] = i', '}',
      'for i_2 in 0 .. 3 step 1 {', '  var x_2: u32 = i_2', '  x_2 = x_2 + i_2', '  y[x_2] = i_2', '}',
      'let x_3: u32 = thread', 'let x_4: u32 = x_3 + 1', 'y[x_4] = x_4',
    ].join('\n'));
    expect(verify(k, 'simt')).toEqual([]);
  });

  it('keeps clear of buffers', () => {
    const k = uniqueNames(kernel([y], [b.let_('y', t), b.store(y, t, b.variable('y'))]));
    expect(printStmts(k.body)).toBe('let y_2: u32 = thread\ny[thread] = y_2');
  });
});

describe('inferAccess', () => {
  it('derives read, write and both, atomics always both, and marks every use', () => {
    const [r, w, rw] = [global('r', 'u32'), global('w', 'u32'), global('rw', 'u32')];
    const c: Buffer = { ...global('c', 'u32'), atomic: true };
    const k = inferAccess(kernel([r, w, rw, c, y], [
      b.store(w, t, b.load(r, t)), b.store(rw, t, b.add(b.load(rw, t), b.u32(1))), b.atomic('add', c, b.u32(0), t),
    ]));
    expect(k.params.map((p) => p.access)).toEqual(['read', 'write', 'read_write', 'read_write', 'read']);
    const [first] = k.body;
    expect(first?.k === 'store' && first.buf === k.params[1] && first.value.k === 'load' && first.value.buf === k.params[0]).toBe(true);
  });
});

describe('finishKernel', () => {
  it('finishes a finished kernel to itself', () => {
    const s: Buffer = b.buffer('s', 'shared', 'u32', 1, 8);
    const next = b.mod(b.add(t, b.u32(1)), b.u32(8));
    const once = finishKernel(kernel([y], [b.alloc(s), b.store(s, t, t), b.store(y, t, b.load(s, next)), b.reduce('n', 'add', t), b.store(y, next, b.variable('n'))]), { subgroups: false });
    expect(finishKernel(once, { subgroups: false })).toEqual(once);
  });

  it('refuses what is not well formed, naming kernel and statement', () => {
    expect(() => finishKernel(kernel([y], [b.store(y, t, b.f32(1))]), { subgroups: false })).toThrow(
      /kernel k is not well formed before the kernel passes:\n {2}the value stored is f32, not u32\n {4}at: y\[thread\] = 1.0/,
    );
  });
});
