/** Every code the compiler can say, by thousand. */
import type { DiagnosticCode } from '../types.ts';
import { internal } from './internal.ts';
import { names } from './names.ts';
import type { CodePage, CodeTable } from './page.ts';
import { runtime } from './runtime.ts';
import { sense } from './sense.ts';
import { syntax } from './syntax.ts';
import { target } from './target.ts';

export type { CodePage, CodeTable } from './page.ts';

export const codes: CodeTable = { ...syntax, ...names, ...sense, ...target, ...runtime, ...internal };

const isCode = (text: string): text is DiagnosticCode => /^MOE\d{4}$/.test(text) && Object.hasOwn(codes, text);

/** The page of a code such as `MOE1007`, in any case; undefined where there is no such code. */
export function codePage(code: string): (CodePage & { readonly code: DiagnosticCode }) | undefined {
  const upper = code.toUpperCase();
  const page = isCode(upper) ? codes[upper] : undefined;
  return page === undefined || !isCode(upper) ? undefined : { ...page, code: upper };
}
