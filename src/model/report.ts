/** Collecting diagnostics while resolving, and the checks that every number goes through. */
import { advise, type Details, error, label, replace, warning } from '../diagnostics/make.ts';
import type { Diagnostic, DiagnosticCode, Label, Span } from '../diagnostics/types.ts';
import type { Num } from '../parser/ast.ts';

/** Where resolving writes what it finds. The same problem at the same place (a block used twice) is told once. */
export interface Report {
  error(code: DiagnosticCode, message: string, details: Details): void;
  warning(code: DiagnosticCode, message: string, details: Details): void;
  readonly diagnostics: readonly Diagnostic[];
}

export function createReport(): Report {
  const diagnostics: Diagnostic[] = [];
  const seen = new Set<string>();
  const add = (d: Diagnostic): void => {
    const key = `${d.code}:${d.primary?.span.start ?? -1}:${d.message}`;
    if (seen.has(key)) return;
    seen.add(key);
    diagnostics.push(d);
  };
  return {
    error: (code, message, details) => add(error(code, message, details)),
    warning: (code, message, details) => add(warning(code, message, details)),
    diagnostics,
  };
}

/** Largest values that make sense and that every later stage can hold exactly. */
export const LIMITS: Readonly<
  Record<'hidden' | 'width' | 'vocab' | 'context' | 'layers' | 'experts' | 'heads' | 'headDim' | 'tokens', number>
> = {
  hidden: 2 ** 20,
  width: 2 ** 24,
  vocab: 2 ** 26,
  context: 2 ** 30,
  layers: 4096,
  experts: 16_384,
  heads: 16_384,
  headDim: 2 ** 16,
  tokens: 2 ** 30,
};

export interface WholeRange {
  readonly min?: number;
  readonly max: number;
  /** Another number of the file that explains the range. */
  readonly because?: readonly Label[];
}

/** A whole number within a range (min is 1 unless said), or a diagnostic and undefined. */
export function whole(report: Report, n: Num, what: string, range: WholeRange): number | undefined {
  const min = range.min ?? 1;
  const labels = range.because ?? [];
  if (n.value < min) {
    report.error('MOE2003', `\`${what}\` must be at least ${min}, not ${n.text}`, {
      at: n.span,
      label: 'too small',
      labels,
      fixes: [replace(n.span, String(min), `write ${min} or more`)],
    });
    return undefined;
  }
  if (n.value > range.max) {
    report.error('MOE2004', `\`${what}\` may be at most ${range.max}, not ${n.text}`, {
      at: n.span,
      label: 'too large',
      labels,
      why: 'the compiler refuses sizes that no device can hold, so that a slip of the finger is not compiled.',
      fixes: [advise(`write a number up to ${range.max}`)],
    });
    return undefined;
  }
  if (!n.integer) {
    report.error('MOE2002', `\`${what}\` counts something and must be a whole number, not ${n.text}`, {
      at: n.span,
      label: 'not a whole number',
      labels,
      fixes: [replace(n.span, String(Math.max(min, Math.round(n.value))), `round to ${Math.max(min, Math.round(n.value))}`)],
    });
    return undefined;
  }
  return n.value;
}

/** Smallest positive f32 that devices keep: smaller ones (subnormals) may be flushed to zero. */
export const F32_MIN_NORMAL: number = 2 ** -126;

/** A constant of the arithmetic: finite in f32 and not rounded to zero there; `positive` refuses zero, none may be negative. */
export function constant(report: Report, n: Num, what: string, sign: 'positive' | 'zero-or-more'): number | undefined {
  const f32 = Math.fround(n.value);
  if (!Number.isFinite(f32)) {
    report.error('MOE2005', `\`${what}\` is ${n.text}, which a 32-bit float cannot hold`, {
      at: n.span,
      label: 'larger than 3.4028235e38',
      why: 'all arithmetic of the generated kernels is in 32-bit floats.',
      fixes: [advise('write a number below 3.4e38')],
    });
    return undefined;
  }
  if (n.value !== 0 && Math.abs(f32) < F32_MIN_NORMAL) {
    report.error('MOE2006', `\`${what}\` is ${n.text}, which is zero in the arithmetic of the kernels`, {
      at: n.span,
      label: 'smaller than 1.1754944e-38',
      why: 'a 32-bit float this small rounds to zero, or is flushed to zero by devices that keep no subnormals.',
      fixes: [replace(n.span, '1e-20', 'write 1e-20, or any number above 1.2e-38')],
    });
    return undefined;
  }
  if (n.value < 0 || (sign === 'positive' && n.value === 0)) {
    report.error('MOE2003', `\`${what}\` must be ${sign === 'positive' ? 'more than 0' : 'at least 0'}, not ${n.text}`, {
      at: n.span,
      label: 'too small',
    });
    return undefined;
  }
  return n.value;
}

/** A clause that must stand in a block and does not. */
export function missing(report: Report, at: Span, owner: string, clause: string, why: string, example: string): void {
  report.error('MOE2001', `${owner} does not say its \`${clause}\``, {
    at,
    label: `no \`${clause}\` here`,
    why,
    fixes: [advise(`add \`${example}\``, 'placeholder')],
  });
}

/** A clause where it has no meaning. */
export function misplaced(
  report: Report,
  at: Span,
  message: string,
  why: string,
  because?: { readonly span: Span; readonly text: string },
): void {
  report.error('MOE2007', message, {
    at,
    label: 'has no meaning here',
    labels: because === undefined ? [] : [label(because.span, because.text)],
    why,
    fixes: [replace(at, '', 'remove it')],
  });
}
