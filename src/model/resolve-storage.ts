/** How experts are stored: `dtype f16 experts int4`, and whether their matrices are deep enough for it. */
import { QUANT_GROUP } from '../base/quant.ts';
import { advise, label, replace } from '../diagnostics/make.ts';
import type { Span } from '../diagnostics/types.ts';
import type * as ast from '../parser/ast.ts';
import { misplaced, type Report, whole } from './report.ts';
import type { ExpertStorage, LayerFfn, MoeLayerFfn } from './types.ts';

export const DEFAULT_SCALES = 'f16' as const;

/** The storage that a unit asks for; undefined where it asks for none, or for one that does not exist. */
export function resolveStorage(report: Report, unit: ast.Unit, moes: readonly ast.Moe[]): ExpertStorage | 'bad' | undefined {
  const said = unit.dtype?.experts;
  if (said === undefined) return undefined;
  if (moes.length === 0) {
    misplaced(report, said.span, `no \`moe\` block has experts to store as \`${said.values.value}\``, 'only the matrices of experts are quantised; all others keep the `dtype`.');
    return 'bad';
  }
  const group = said.group === undefined ? QUANT_GROUP : whole(report, said.group.value, 'group', { max: Number.MAX_SAFE_INTEGER });
  if (group === undefined || said.group === undefined) return group === undefined ? 'bad' : storageOf(said);
  if (group === QUANT_GROUP) return storageOf(said);
  report.error('MOE3050', `groups of ${said.group.value.text} values cannot be stored`, {
    at: said.group.value.span,
    label: `must be ${QUANT_GROUP}`,
    why: `the kernels unpack ${QUANT_GROUP} values along the depth with one scale.`,
    fixes: [replace(said.group.value.span, String(QUANT_GROUP), `write \`group ${QUANT_GROUP}\`, or leave it out`)],
  });
  return 'bad';
}

const storageOf = (said: ast.ExpertDType): ExpertStorage => ({
  values: said.values.value,
  group: QUANT_GROUP,
  scales: said.scales?.value ?? DEFAULT_SCALES,
});

/** A depth that groups must divide, and where it was written. */
interface Depth {
  readonly value: number;
  readonly what: string;
  readonly at: Span;
}

function checkDepth(report: Report, said: ast.ExpertDType, { value, what, at }: Depth): boolean {
  if (value % QUANT_GROUP === 0) return true;
  const below = value - (value % QUANT_GROUP);
  const near = below === 0 ? String(QUANT_GROUP) : `${below} or ${below + QUANT_GROUP}`;
  report.error('MOE3051', `${what} of ${value} does not divide into groups of ${QUANT_GROUP}`, {
    at,
    label: `${value} = ${Math.floor(value / QUANT_GROUP)} x ${QUANT_GROUP} + ${value % QUANT_GROUP}`,
    labels: [label(said.span, 'experts are stored in groups along this depth')],
    why: `every ${QUANT_GROUP} neighbouring weights of a row share a scale; a group of another size is not stored.`,
    fixes: [replace(said.span, '', 'store the experts in the `dtype` of the rest'), advise(`choose ${near} where the size is yours to choose`)],
  });
  return false;
}

/** Gate and up matrices are as deep as the hidden state is wide. */
export const checkHidden = (report: Report, unit: ast.Unit, hidden: number | undefined): boolean =>
  unit.dtype?.experts === undefined || hidden === undefined || unit.hidden === undefined
    ? true
    : checkDepth(report, unit.dtype.experts, { value: hidden, what: 'a `hidden`', at: unit.hidden.value.span });

/** Down matrices are as deep as an expert is wide. */
export function checkWidths(report: Report, said: ast.ExpertDType | undefined, written: ast.LayerFfn, ffn: LayerFfn): boolean {
  if (said === undefined || written.kind !== 'moe' || ffn.kind !== 'moe' || written.counting === undefined) return true;
  const own = written.counting.network.width.span;
  const depths = widths(ffn).map(
    ({ value, shared }): Depth => ({
      value,
      what: shared ? 'a width of the shared experts' : 'a width',
      at: shared ? (written.shared?.network?.network.width ?? written.shared ?? written).span : own,
    }),
  );
  return depths.map((depth) => checkDepth(report, said, depth)).every(Boolean);
}

const widths = (ffn: MoeLayerFfn): readonly { readonly value: number; readonly shared: boolean }[] => [
  { value: ffn.expert.width, shared: false },
  // Where the routed width divides, so does a multiple of it.
  ...(ffn.shared === undefined || ffn.shared.ffn.width % ffn.expert.width === 0 ? [] : [{ value: ffn.shared.ffn.width, shared: true }]),
];
