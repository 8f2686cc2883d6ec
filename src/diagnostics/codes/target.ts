/** Codes 4xxx, targets and limits. */
import type { CodeTable } from './page.ts';

export const target: CodeTable = {};
