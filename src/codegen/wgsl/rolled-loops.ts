/**
 * Keeps loops rolled: a loop whose number of iterations is known begins at a number that is always the
 * same but that the driver's compiler cannot know. Software drivers unroll such loops whole, whatever is
 * in them, and then take tens of seconds over the hundreds of guarded loads that result.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Kernel, Stmt } from '../../ir/kernel/types.ts';
import { mapBodiesOf } from '../../ir/kernel/walk.ts';

/** 0: a grid has at most 65535 blocks in a dimension. */
const ZERO = b.bin('>>', b.builtin('grid.z'), b.u32(16));

const roll = (body: readonly Stmt[]): readonly Stmt[] =>
  body.map((s) => {
    const inner = mapBodiesOf(s, roll);
    if (inner.k !== 'for' || inner.unroll || inner.from.k !== 'const' || inner.to.k !== 'const') return inner;
    return inner.to.value - inner.from.value > inner.step ? { ...inner, from: b.add(inner.from, ZERO) } : inner;
  });

/** Wants a finished kernel (simt level); changes no result. */
export const keepLoopsRolled = (kernel: Kernel): Kernel => ({ ...kernel, body: roll(kernel.body) });
