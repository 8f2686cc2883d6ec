/** Codes 9xxx, faults of the compiler itself. */
import type { CodeTable } from './page.ts';

export const internal: CodeTable = {};
