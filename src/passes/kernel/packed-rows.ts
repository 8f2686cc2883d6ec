/** The reader of quantised rows: a word at a time, with the scale of its group. */
import * as b from '../../ir/kernel/build.ts';
import { bindScale, bindWord, valuesPerWord } from '../../ir/kernel/packed.ts';
import type { GroupScale } from '../../ir/kernel/packed.ts';
import type { Expr, PackedRows, Stmt, View } from '../../ir/kernel/types.ts';
import { QUANT_GROUP } from '../../base/quant.ts';
import type { Fresh } from './fresh.ts';
import type { OperandRows } from './operand-rows.ts';
import { readRow, rowAccess } from './view-access.ts';

/** Where the guard is false the scale is 0, and so are the values, whatever the word. */
export function packedRows(view: View, packed: PackedRows, fresh: Fresh, written: ReadonlySet<string>): OperandRows {
  const { format } = packed;
  const { name } = view.buf;
  const unit = valuesPerWord(format);
  return {
    unit,
    group: QUANT_GROUP,
    lanes: 4,
    row(row, hoisted, index) {
      const words = rowAccess(view, row, hoisted, name);
      const scales = rowAccess({ ...view, index: packed.scale }, row, hoisted, `${name}_scale`);
      let shared: GroupScale | undefined;
      return {
        begin(k) {
          const of = fresh(`${name}${index ?? '_next'}_group`);
          const stmts: Stmt[] = [...readRow(scales, k, of, written)];
          shared = bindScale(stmts, format, of, b.variable(of), k);
          return stmts;
        },
        read(k, count, used) {
          if (shared === undefined) throw new Error(`${name} is read before its group began`);
          if (count > QUANT_GROUP) throw new Error(`${name}: ${count} elements at once are more than a group`);
          const stmts: Stmt[] = [];
          const values: Expr[] = [];
          for (let at = 0; at < count; at += unit) {
            const word = fresh(`${name}${index ?? '_next'}`);
            stmts.push(...readRow(words, b.add(k, b.u32(at)), word, written, used));
            values.push(...bindWord(stmts, format, word, b.variable(word), shared));
          }
          return { lanes: 4, values, stmts };
        },
      };
    },
  };
}
