/** What can be told from a Spec alone. */
export { type Analysis, analyze, analyzeText, defaultTokens, explainDefaults, fit, fitText, shortBytes } from '../model/index.ts';
export type { LayerFfn, Spec } from '../model/types.ts';
