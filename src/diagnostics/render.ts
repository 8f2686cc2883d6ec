/** Diagnostics for people (terminal), for programs (JSON) and for a code host's annotations. */
import { visible } from './display.ts';
import { type Row, type Style, frame } from './frame.ts';
import { type Position, type Source, type Sources, clampSpan, source } from './source.ts';
import type { Applicability, Diagnostic, DiagnosticCode, Label, Severity, Span } from './types.ts';

export type { Position, Sources } from './source.ts';

export interface RenderOptions {
  /** ANSI colours; off by default. */
  readonly color?: boolean;
  /** The closing line that names `moec explain`; on by default. */
  readonly more?: boolean;
}

const RESET = '\x1b[0m';
const SEVERITY_COLOR: Readonly<Record<Severity, string>> = { error: '\x1b[1;31m', warning: '\x1b[1;33m', note: '\x1b[1;36m' };

/** Reads each file once. */
function reader(sources: Sources): (file: string) => Source | undefined {
  const known = new Map<string, Source | undefined>();
  return (file) => {
    if (!known.has(file)) {
      const text = sources(file);
      known.set(file, text === undefined ? undefined : source(text));
    }
    return known.get(file);
  };
}

/** Labels by file, the primary one's file first. */
function byFile(d: Diagnostic): Map<string, { primary?: Label; labels: Label[] }> {
  const files = new Map<string, { primary?: Label; labels: Label[] }>();
  if (d.primary !== undefined) files.set(d.primary.span.file, { primary: d.primary, labels: [] });
  for (const label of d.labels) {
    const group = files.get(label.span.file) ?? { labels: [] };
    group.labels.push(label);
    files.set(label.span.file, group);
  }
  return files;
}

function renderOne(d: Diagnostic, read: (file: string) => Source | undefined, options: RenderOptions): string[] {
  const paint = (style: Style, text: string): string => {
    if (options.color !== true || style === 'plain' || text === '') return text;
    return `${style === 'primary' ? SEVERITY_COLOR[d.severity] : '\x1b[1;34m'}${text}${RESET}`;
  };
  const bold = (text: string): string => (options.color === true ? `\x1b[1m${text}${RESET}` : text);
  const join = (row: Row): string =>
    row
      .map((p) => paint(p.style, p.text))
      .join('')
      .trimEnd();
  const out = [`${paint('primary', `${d.severity}[${d.code}]`)}${bold(`: ${visible(d.message)}`)}`];

  const groups = [...byFile(d)];
  const lastLine = Math.max(
    0,
    ...groups.flatMap(([file, g]) => {
      const src = read(file);
      return src === undefined ? [] : [g.primary, ...g.labels].map((l) => (l === undefined ? 0 : src.lineOf(l.span.end)));
    }),
  );
  const digits = String(lastLine + 1).length;
  const indent = ' '.repeat(digits);
  groups.forEach(([file, group], index) => {
    const src = read(file);
    const first = group.primary ?? group.labels[0];
    const arrow = paint('gutter', `${indent} ${index === 0 ? '-->' : ':::'}`);
    if (src === undefined || first === undefined) {
      out.push(`${arrow} ${visible(file)}`);
      return;
    }
    const { line, column } = src.position(first.span.start);
    out.push(`${arrow} ${visible(file)}:${line}:${column}`);
    const bar = paint('gutter', ` ${indent} |`);
    out.push(bar, ...frame(src, group.primary, group.labels, digits).map(join), bar);
  });

  const line = (head: string, text: string): void => {
    const [first = '', ...rest] = visible(text, true).split('\n');
    out.push(` ${bold(`${head}:`)} ${first}`, ...rest.map((r) => `   ${r}`));
  };
  if (d.why !== undefined) line('why', d.why);
  for (const note of d.notes) line('note', note);
  for (const fix of d.fixes) line('fix', fix.text);
  if (options.more !== false) out.push(` ${bold('more:')} moec explain ${d.code}`);
  return out;
}

/** Frames for a terminal, with a blank line between them; ends with a line feed unless there is nothing to say. */
export function renderText(diagnostics: readonly Diagnostic[], sources: Sources, options: RenderOptions = {}): string {
  const read = reader(sources);
  return diagnostics.map((d) => `${renderOne(d, read, options).join('\n')}\n`).join('\n');
}

/** `2 errors, 1 warning`; empty where there are none. */
export function summary(diagnostics: readonly Diagnostic[]): string {
  const count = (severity: Severity): number => diagnostics.filter((d) => d.severity === severity).length;
  const part = (n: number, word: string): string[] => (n === 0 ? [] : [`${n} ${word}${n === 1 ? '' : 's'}`]);
  return [...part(count('error'), 'error'), ...part(count('warning'), 'warning')].join(', ');
}

export interface JsonSpan {
  readonly file: string;
  /** UTF-16 offsets, as in the API. */
  readonly start: number;
  readonly end: number;
  /** Absent where the file's text is not at hand. */
  readonly from?: Position;
  readonly to?: Position;
}

export interface JsonDiagnostic {
  readonly code: DiagnosticCode;
  readonly severity: Severity;
  readonly message: string;
  readonly primary?: JsonSpan & { readonly text: string };
  readonly labels: readonly (JsonSpan & { readonly text: string })[];
  readonly why?: string;
  readonly notes: readonly string[];
  readonly fixes: readonly {
    readonly text: string;
    readonly applicability: Applicability;
    readonly edit?: JsonSpan & { readonly replacement: string };
  }[];
}

/** The same as plain data, with lines and columns added. */
export function toJson(diagnostics: readonly Diagnostic[], sources: Sources): readonly JsonDiagnostic[] {
  const read = reader(sources);
  const place = (span: Span): JsonSpan => {
    const src = read(span.file);
    const base = { file: span.file, start: span.start, end: span.end };
    return src === undefined ? base : { ...base, from: src.position(span.start), to: src.position(span.end) };
  };
  return diagnostics.map((d) => ({
    code: d.code,
    severity: d.severity,
    message: d.message,
    ...(d.primary === undefined ? {} : { primary: { ...place(d.primary.span), text: d.primary.text } }),
    labels: d.labels.map((l) => ({ ...place(l.span), text: l.text })),
    ...(d.why === undefined ? {} : { why: d.why }),
    notes: d.notes,
    fixes: d.fixes.map((f) => ({
      text: f.text,
      applicability: f.applicability,
      ...(f.edit === undefined ? {} : { edit: { ...place(f.edit.span), replacement: f.edit.replacement } }),
    })),
  }));
}

const escapeData = (text: string): string => text.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
const escapeProperty = (text: string): string => escapeData(text).replace(/:/g, '%3A').replace(/,/g, '%2C');

/** Workflow commands of GitHub Actions (`::error file=…`), one line a diagnostic. */
export function renderGithub(diagnostics: readonly Diagnostic[], sources: Sources): string {
  const read = reader(sources);
  return diagnostics
    .map((d) => {
      const command = d.severity === 'note' ? 'notice' : d.severity;
      const properties: string[] = [];
      if (d.primary !== undefined) {
        const src = read(d.primary.span.file);
        properties.push(`file=${escapeProperty(visible(d.primary.span.file))}`);
        if (src !== undefined) {
          const span = clampSpan(d.primary.span, src.text.length);
          const from = src.position(span.start);
          const to = src.position(Math.max(span.start, span.end - 1));
          properties.push(`line=${from.line}`, `endLine=${to.line}`);
          // Columns mean something to the host only within one line.
          if (from.line === to.line) properties.push(`col=${from.column}`, `endColumn=${to.column + 1}`);
        }
      }
      properties.push(`title=${d.code}`);
      const words = [d.message, d.primary?.text ?? '', d.why === undefined ? '' : `why: ${d.why}`, ...d.fixes.map((f) => `fix: ${f.text}`)];
      const text = words
        .filter((w) => w !== '')
        .map((w) => visible(w))
        .join('\n');
      return `::${command} ${properties.join(',')}::${escapeData(text)}\n`;
    })
    .join('');
}
