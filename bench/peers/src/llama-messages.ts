/** What the process with llama.cpp is asked, and what it answers. Apart from it, so that nothing else needs its types. */
export interface Open {
  readonly op: 'open';
  readonly path: string;
  readonly gpu: 'vulkan' | false;
  readonly context: number;
}
export interface Run {
  readonly op: 'run';
  readonly ids: readonly number[];
  /** Tokens to make after the prompt, one after another. */
  readonly decode: number;
  /** Also the logits after the prompt. */
  readonly logits: boolean;
}
export type Ask = Open | Run | { readonly op: 'close' };

export type Answer =
  | { readonly op: 'opened'; readonly device: string; readonly version: string; readonly loadMs: number }
  | { readonly op: 'ran'; readonly prefillMs: number; readonly decodeMs: number; readonly logits: readonly number[] | undefined }
  | { readonly op: 'failed'; readonly message: string };
