/** Rules of blocks and of products over them: shapes that fit each other, storage that the variant can take. */
import type { Block, StmtOf } from './types.ts';

export const sameBlock = (a: Block, b: Block): boolean =>
  a.name === b.name && a.variant === b.variant && a.elem === b.elem && a.rows === b.rows && a.cols === b.cols;

const shape = (rows: number, cols: number): string => `[${rows}, ${cols}]`;

export function checkBlock({ block, view }: StmtOf<'tile.stage'>, report: (message: string) => void): void {
  const { elem, lanes } = view.buf;
  if ([block.rows, block.cols].some((n) => !Number.isInteger(n) || n < 1)) report(`block ${block.name} has whole, positive dimensions`);
  if (block.cols % lanes !== 0) report(`block ${block.name}: rows of ${block.cols} are no whole number of accesses of ${lanes}`);
  if (elem !== 'f32' && elem !== 'f16' && elem !== 'bf16') report(`block ${block.name}: ${elem} is not multiplied`);
  const kept = block.variant === 'fma' ? 'f32' : elem;
  if (block.elem !== kept) report(`block ${block.name} keeps ${elem} as ${block.elem} for ${block.variant}`);
}

/** @param staged the blocks that the kernel stages, by name */
export function checkOperands(s: StmtOf<'tile.product'>, staged: ReadonlyMap<string, Block>, report: (message: string) => void): void {
  const { tile, a, schedule } = s;
  const check = (block: Block, rows: number, cols: number, what: string): void => {
    const known = staged.get(block.name);
    if (known === undefined) report(`block ${block.name} is never staged`);
    else if (!sameBlock(known, block)) report(`block ${block.name} is used otherwise than it is staged`);
    if (block.rows !== rows || block.cols !== cols) report(`${what} is ${shape(block.rows, block.cols)}, not ${shape(rows, cols)}`);
    if (block.variant !== schedule.variant) report(`block ${block.name} lies as ${block.variant} wants it, not ${schedule.variant}`);
  };
  const depth = a.k === 'block' ? a.block.cols : a.tile.cols;
  if (a.k === 'block') check(a.block, tile.rows, depth, 'operand a');
  else {
    if (a.tile.name === tile.name) report(`tile ${tile.name} times itself`);
    const rows = a.tile.count === 1 ? a.tile.rows : 0;
    if (rows !== tile.rows) report(`${a.tile.count} x ${a.tile.rows} rows of ${a.tile.name} for a tile of ${tile.rows}`);
  }
  if (s.b.length !== tile.count) report(`${s.b.length} operands b for ${tile.count} accumulators`);
  for (const { block, transposed } of s.b) {
    if (transposed) check(block, depth, tile.cols, 'operand b, transposed,');
    else check(block, tile.cols, depth, 'operand b');
  }
}
