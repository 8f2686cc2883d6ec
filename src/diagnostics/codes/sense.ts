/** Codes 3xxx, the sense of a model. */
import type { CodeTable } from './page.ts';

export const sense: CodeTable = {};
