/** The shape of the table of codes. */
import type { DiagnosticCode } from '../types.ts';

export interface CodePage {
  /** A few words, the same for every occurrence. */
  readonly title: string;
  /**
   * What `moec explain CODE` prints: a paragraph or two, then a wrong and a right example, each in a fence
   * opened by "```moe wrong" or "```moe right". Tests hold the examples to their word.
   */
  readonly explain: string;
}

export type CodeTable = Readonly<Record<DiagnosticCode, CodePage>>;

/** A page of text followed by a wrong and a right example. */
export const withExamples = (title: string, text: string, wrong: string, right: string): CodePage => ({
  title,
  explain: `${text.trim()}\n\nWrong:\n\n\`\`\`moe wrong\n${wrong.trim()}\n\`\`\`\n\nRight:\n\n\`\`\`moe right\n${right.trim()}\n\`\`\`\n`,
});
