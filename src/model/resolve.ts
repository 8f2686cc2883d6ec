/** AST → Specs: names, numbers, defaults and checks. */
import { advise, label } from '../diagnostics/make.ts';
import type { Diagnostic } from '../diagnostics/types.ts';
import { stableJson } from '../base/hash.ts';
import type * as ast from '../parser/ast.ts';
import { constant, createReport, LIMITS, misplaced, missing, type Report, whole } from './report.ts';
import { mergeAttention, resolveAttention } from './resolve-attention.ts';
import { resolveLayerFfn } from './resolve-ffn.ts';
import { layerSources } from './resolve-layers.ts';
import { checkHidden, checkWidths, resolveStorage } from './resolve-storage.ts';
import type { Attention, LayerFfn, LayerKind, LayerSpec, ModelSpec, Norm, Spec } from './types.ts';

export const DEFAULT_EPS: Readonly<Record<Norm['kind'], number>> = { rms: 1e-6, layer: 1e-5 };

export interface Resolved {
  /** Units without an error, in the order of the file. */
  readonly specs: readonly Spec[];
  readonly diagnostics: readonly Diagnostic[];
}

function resolveNorm(report: Report, norm: ast.Norm | undefined): Norm | undefined {
  const kind = norm?.kind.value ?? 'rms';
  const eps = norm?.eps === undefined ? DEFAULT_EPS[kind] : constant(report, norm.eps, 'norm', 'positive');
  if (norm?.bias !== undefined && kind === 'rms') {
    misplaced(report, norm.bias.span, 'RMS norms have no `bias`', 'they scale without shifting; `layer` norms do both.', {
      span: norm.kind.span,
      text: 'an RMS norm',
    });
    return undefined;
  }
  return eps === undefined ? undefined : { kind, eps, bias: norm?.bias !== undefined };
}

/** A size that must be said. */
function required(
  report: Report,
  unit: ast.Unit,
  clause: ast.NumClause | undefined,
  name: string,
  max: number,
  example: number,
): number | undefined {
  if (clause !== undefined) return whole(report, clause.value, name, { max });
  missing(
    report,
    unit.name.span,
    `${unit.kind} \`${unit.name.value}\``,
    name,
    'it follows from nothing else in the spec.',
    `${name} ${example}`,
  );
  return undefined;
}

interface KindsAndLayers {
  readonly kinds: readonly LayerKind[];
  readonly layers: readonly number[];
}

/** The distinct layers of a model. Blocks are resolved once, however many layers they name; layers of equal meaning are one kind. */
function resolveKinds(report: Report, model: ast.Model, hidden: number | undefined): KindsAndLayers | undefined {
  const sources = layerSources(report, model);
  const attentions = new Map<ast.Attention | 'model', Attention | undefined>();
  const ffns = new Map<ast.LayerFfn, LayerFfn | undefined>();
  const attentionOf = (source: ast.Attention | 'model'): Attention | undefined => {
    if (!attentions.has(source)) {
      const own = source === 'model' ? model.attention : mergeAttention(model.attention, source);
      attentions.set(source, own && resolveAttention(report, own, hidden));
    }
    return attentions.get(source);
  };
  const ffnOf = (source: ast.LayerFfn): LayerFfn | undefined => {
    if (!ffns.has(source)) {
      const made = resolveLayerFfn(report, source);
      ffns.set(source, made !== undefined && checkWidths(report, model.dtype?.experts, source, made) ? made : undefined);
    }
    return ffns.get(source);
  };
  // Blocks are checked even where no layer needs them, or the layers are not known.
  if (model.attention !== undefined) attentionOf('model');
  if (model.ffn !== undefined) ffnOf(model.ffn);
  for (const block of model.layers) {
    if (block.attention !== undefined) attentionOf(block.attention);
    if (block.ffn !== undefined) ffnOf(block.ffn);
  }
  const kinds: LayerKind[] = [];
  const keys = new Map<string, number>();
  const layers = sources?.map((s) => {
    const attention = s.attention === undefined ? undefined : attentionOf(s.attention);
    const ffn = s.ffn === undefined ? undefined : ffnOf(s.ffn);
    if (attention === undefined || ffn === undefined) return -1;
    const key = stableJson({ attention, ffn });
    const known = keys.get(key) ?? kinds.length;
    if (known === kinds.length) {
      keys.set(key, known);
      kinds.push({ attention, ffn, span: s.at });
    }
    return known;
  });
  return layers === undefined || layers.includes(-1) ? undefined : { kinds, layers };
}

const moeBlocks = (model: ast.Model): ast.Moe[] =>
  [model.ffn, ...model.layers.map((b) => b.ffn)].flatMap((f) => (f?.kind === 'moe' ? [f] : []));

/** Rules where a token's result depends on other tokens: what that means for a whole model, and for `deterministic batch`. */
function warnOfCoupling(report: Report, unit: ast.Unit, moes: readonly ast.Moe[]): void {
  for (const moe of moes) {
    const choice = moe.router?.select?.kind === 'expert-choice' ? moe.router.select : undefined;
    const at = (choice ?? moe.capacity)?.span;
    if (at === undefined) continue;
    if (unit.deterministic?.value.value === 'batch') {
      report.error(
        'MOE3048',
        `\`deterministic batch\` cannot be kept with ${choice === undefined ? 'a `capacity`' : '`expert-choice`'}`,
        {
          at,
          labels: [label(unit.deterministic.span, "promises that a token's result does not depend on the others")],
          why:
            choice === undefined
              ? 'which tokens are dropped depends on the tokens before them.'
              : 'which experts take a token depends on all other tokens.',
          fixes: [advise('write `deterministic run`: two equal calls give equal bits')],
        },
      );
    } else if (unit.kind === 'model' && choice !== undefined) {
      report.warning('MOE3033', '`expert-choice` is not causal', {
        at,
        why: 'whether an expert takes a token depends on later tokens: generating one by one gives other results than one call.',
        fixes: [advise('choose per token with `top-k` for a model that generates')],
      });
    } else if (unit.kind === 'model') {
      report.warning('MOE3047', 'the `capacity` makes results depend on how a sequence is cut into calls', {
        at,
        why: 'places in an expert are counted within a call; a token that is dropped in one long call may be kept when generated alone.',
        fixes: [advise('leave `capacity` out for inference, as the published models do')],
      });
    }
  }
}

function resolveModel(report: Report, unit: ast.Model): ModelSpec | undefined {
  const vocab = required(report, unit, unit.vocab, 'vocab', LIMITS.vocab, 102_400);
  const hidden = required(report, unit, unit.hidden, 'hidden', LIMITS.hidden, 2048);
  const context = required(report, unit, unit.context, 'context', LIMITS.context, 4096);
  const norm = resolveNorm(report, unit.norm);
  const optional = (clause: ast.NumClause | undefined, name: string): number | undefined =>
    clause === undefined ? 1 : constant(report, clause.value, name, 'positive');
  const multiplier = optional(unit.embedding?.multiplier, 'embedding multiplier');
  const divisor = optional(unit.head?.divisor, 'head divisor');
  const residualMultiplier = optional(unit.residualMultiplier, 'residual multiplier');
  const kinds = resolveKinds(report, unit, hidden);
  warnOfCoupling(report, unit, moeBlocks(unit));
  const storage = resolveStorage(report, unit, moeBlocks(unit));
  const deep = checkHidden(report, unit, hidden);
  const numbers = vocab !== undefined && hidden !== undefined && context !== undefined;
  const factors = multiplier !== undefined && divisor !== undefined && residualMultiplier !== undefined;
  if (!numbers || !factors || norm === undefined || kinds === undefined || storage === 'bad' || !deep) return undefined;
  return {
    kind: 'model',
    name: unit.name.value,
    span: unit.span,
    hidden,
    dtype: unit.dtype?.value.value ?? 'f32',
    ...(storage === undefined ? {} : { expertStorage: storage }),
    deterministic: unit.deterministic?.value.value ?? 'run',
    vocab,
    context,
    norm,
    embedding: { tied: unit.embedding?.tied !== undefined, multiplier },
    head: { bias: unit.head?.bias !== undefined, divisor },
    residualMultiplier,
    ...kinds,
  };
}

function resolveLayer(report: Report, unit: ast.LayerUnit): LayerSpec | undefined {
  const hidden = required(report, unit, unit.hidden, 'hidden', LIMITS.hidden, 2048);
  const vocab = unit.vocab && whole(report, unit.vocab.value, 'vocab', { max: LIMITS.vocab });
  const norm = unit.norm && resolveNorm(report, unit.norm);
  if (unit.ffn === undefined) {
    report.error('MOE2001', `layer \`${unit.name.value}\` has no feed-forward part`, {
      at: unit.name.span,
      label: 'no `moe` and no `ffn` here',
      why: 'a layer spec is one feed-forward part, dense or of experts.',
      fixes: [advise('add `moe { experts 8 of swiglu 1408  active 2 }` or `ffn swiglu 5632`', 'placeholder')],
    });
  }
  const ffn = unit.ffn && resolveLayerFfn(report, unit.ffn);
  const select = unit.ffn?.kind === 'moe' ? unit.ffn.router?.select : undefined;
  if (select?.kind === 'hash' && unit.vocab === undefined) {
    report.error('MOE3030', 'a hash router needs the size of the vocabulary', {
      at: select.span,
      label: 'looks up token ids',
      why: 'the table has one row for each token id.',
      fixes: [advise('add `vocab 32000` to the layer', 'placeholder')],
    });
  }
  warnOfCoupling(report, unit, unit.ffn?.kind === 'moe' ? [unit.ffn] : []);
  const storage = resolveStorage(report, unit, unit.ffn?.kind === 'moe' ? [unit.ffn] : []);
  const deep = [checkHidden(report, unit, hidden), unit.ffn === undefined || ffn === undefined || checkWidths(report, unit.dtype?.experts, unit.ffn, ffn)];
  if (storage === 'bad' || deep.includes(false)) return undefined;
  const broken = (unit.vocab !== undefined && vocab === undefined) || (unit.norm !== undefined && norm === undefined);
  if (hidden === undefined || ffn === undefined || broken || (select?.kind === 'hash' && vocab === undefined)) return undefined;
  return {
    kind: 'layer',
    name: unit.name.value,
    span: unit.span,
    hidden,
    dtype: unit.dtype?.value.value ?? 'f32',
    ...(storage === undefined ? {} : { expertStorage: storage }),
    deterministic: unit.deterministic?.value.value ?? 'run',
    ffn,
    residual: unit.residual !== undefined,
    ...(norm === undefined ? {} : { norm }),
    ...(vocab === undefined ? {} : { vocab }),
  };
}

const errorCount = (report: Report): number => report.diagnostics.filter((d) => d.severity === 'error').length;

/** Resolves every unit of a file; units with errors are told about and left out. Never throws on any AST the parser makes. */
export function resolve(file: ast.File): Resolved {
  const report = createReport();
  const first = new Map<string, ast.Unit>();
  const specs: Spec[] = [];
  for (const unit of file.units) {
    const other = first.get(unit.name.value);
    if (other === undefined) {
      first.set(unit.name.value, unit);
    } else {
      report.error('MOE2008', `two units are called \`${unit.name.value}\``, {
        at: unit.name.span,
        label: 'the name again',
        labels: [label(other.name.span, 'first used here')],
        why: 'commands choose a unit of a file by its name.',
        fixes: [advise('give one of them another name')],
      });
    }
    const before = errorCount(report);
    const spec = unit.kind === 'model' ? resolveModel(report, unit) : resolveLayer(report, unit);
    if (spec !== undefined && other === undefined && errorCount(report) === before) specs.push(spec);
  }
  return { specs, diagnostics: report.diagnostics };
}
