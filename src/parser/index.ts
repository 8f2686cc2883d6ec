/** `.moe` text to syntax tree, and back to well laid out text. */
export type * as ast from './ast.ts';
export { type Formatted, format } from './format.ts';
export { MAX_LENGTH } from './lex.ts';
export { MAX_SHOWN, type Parsed, parse } from './parse.ts';
export { keywords } from './tokens.ts';
