/** Building diagnostics. */
import type { Applicability, Diagnostic, DiagnosticCode, Fix, Label, Severity, Span } from './types.ts';

/** Everything about a diagnostic but its code, severity and message. */
export interface Details {
  readonly at?: Span;
  /** What stands under the primary span. */
  readonly label?: string;
  readonly labels?: readonly Label[];
  readonly why?: string;
  readonly notes?: readonly string[];
  readonly fixes?: readonly Fix[];
}

function make(severity: Severity, code: DiagnosticCode, message: string, details: Details): Diagnostic {
  return {
    code,
    severity,
    message,
    ...(details.at === undefined ? {} : { primary: { span: details.at, text: details.label ?? '' } }),
    labels: details.labels ?? [],
    ...(details.why === undefined ? {} : { why: details.why }),
    notes: details.notes ?? [],
    fixes: details.fixes ?? [],
  };
}

export const error = (code: DiagnosticCode, message: string, details: Details = {}): Diagnostic => make('error', code, message, details);
export const warning = (code: DiagnosticCode, message: string, details: Details = {}): Diagnostic =>
  make('warning', code, message, details);
export const note = (code: DiagnosticCode, message: string, details: Details = {}): Diagnostic => make('note', code, message, details);

export const label = (span: Span, text: string): Label => ({ span, text });

/** A fix in words. */
export const advise = (text: string, applicability: Applicability = 'maybe'): Fix => ({ text, applicability });

/** A fix that puts `replacement` in the place of `span`. */
export const replace = (span: Span, replacement: string, text: string, applicability: Applicability = 'maybe'): Fix => ({
  text,
  applicability,
  edit: { span, replacement },
});

/** A fix that writes `insertion` at an offset. */
export const insertAt = (file: string, offset: number, insertion: string, text: string, applicability: Applicability = 'maybe'): Fix =>
  replace({ file, start: offset, end: offset }, insertion, text, applicability);

export const hasErrors = (diagnostics: readonly Diagnostic[]): boolean => diagnostics.some((d) => d.severity === 'error');

/** The smallest span that holds both. */
export const joinSpans = (a: Span, b: Span): Span => ({ file: a.file, start: Math.min(a.start, b.start), end: Math.max(a.end, b.end) });

/** By place (diagnostics without one first), then by code: the order in which people read. */
export function sortDiagnostics(diagnostics: readonly Diagnostic[]): readonly Diagnostic[] {
  const key = (d: Diagnostic): number => d.primary?.span.start ?? -1;
  const file = (d: Diagnostic): string => d.primary?.span.file ?? '';
  const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  return [...diagnostics].sort((a, b) => order(file(a), file(b)) || key(a) - key(b) || order(a.code, b.code));
}
