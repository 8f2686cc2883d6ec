/** Codes 2xxx, names and types. */
import type { CodeTable } from './page.ts';

export const names: CodeTable = {};
