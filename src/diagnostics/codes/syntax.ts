/** Codes 1xxx, syntax. */
import type { CodeTable } from './page.ts';

export const syntax: CodeTable = {};
