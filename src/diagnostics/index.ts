/** What the compiler says to people: data, builders, the table of codes, renderers. Knows nothing of the language. */
export * from './codes/index.ts';
export * from './make.ts';
export * from './render.ts';
export * from './suggest.ts';
export type * from './types.ts';
