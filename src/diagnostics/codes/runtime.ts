/** Codes 5xxx, weights, tuning and run time. */
import type { CodeTable } from './page.ts';

export const runtime: CodeTable = {};
