/** Where a section's tensors are looked for: behind the prefixes of released models, or bare for a layer alone. */

export interface Scope {
  readonly kind: 'model' | 'layer';
  /** Canonical parameter name. */
  canonical(name: string): string;
}

export const MODEL_SCOPE: Scope = { kind: 'model', canonical: (name) => `layers.{l}.${name}` };
export const LAYER_SCOPE: Scope = { kind: 'layer', canonical: (name) => name };

/** Prefix of a decoder layer in the checkpoints of transformers. */
export const LAYER_PREFIX = 'model.layers.{l}.';
/** The same in DBRX. */
export const DBRX_PREFIX = 'transformer.blocks.{l}.';
