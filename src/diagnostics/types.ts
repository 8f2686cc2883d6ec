/**
 * What the compiler says to people. A diagnostic is data; words become frames in `render.ts`.
 * This room knows nothing of the language: every other room may report through it.
 */

/** A half-open range of UTF-16 offsets in one file. */
export interface Span {
  readonly file: string;
  readonly start: number;
  readonly end: number;
}

export type Severity = 'error' | 'warning' | 'note';

export interface Label {
  readonly span: Span;
  readonly text: string;
}

/** How sure we are of a fix: `machine` may be applied blindly, `maybe` needs a look, `placeholder` has a blank to fill. */
export type Applicability = 'machine' | 'maybe' | 'placeholder';

export interface Fix {
  readonly text: string;
  readonly applicability: Applicability;
  readonly edit?: { readonly span: Span; readonly replacement: string };
}

/**
 * `MOE` and four digits: 1xxx syntax, 2xxx names and types, 3xxx model sense, 4xxx target and limits,
 * 5xxx weights, tuning, run time, 9xxx internal.
 */
export type DiagnosticCode = `MOE${number}`;

export interface Diagnostic {
  readonly code: DiagnosticCode;
  readonly severity: Severity;
  /** One sentence in the user's terms and units. */
  readonly message: string;
  readonly primary?: Label;
  readonly labels: readonly Label[];
  /** One sentence: why this is a problem. */
  readonly why?: string;
  readonly notes: readonly string[];
  readonly fixes: readonly Fix[];
}
