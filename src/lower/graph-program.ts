/** A spec as graphs: distinct sections and the order in which they run. */
import type { Graph } from '../ir/graph/types.ts';

export interface GraphProgram {
  readonly sections: readonly Graph[];
  /** Run order; `layer` fills `{l}` in parameter names and checkpoint tensor names. */
  readonly sequence: readonly { readonly section: number; readonly layer: number | undefined }[];
}
