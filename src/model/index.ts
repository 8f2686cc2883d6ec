/** The Model: AST → Spec, and everything that can be told from a Spec alone. */
export * from './analyze.ts';
export * from './analyze-text.ts';
export * from './explain-defaults.ts';
export * from './fit.ts';
export { resolve, type Resolved } from './resolve.ts';
export { inverseFrequencies, ropeMultiplier } from './rope.ts';
export type * from './types.ts';
