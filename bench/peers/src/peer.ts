/** What takes part: something that maps hidden states to hidden states, or the reason why it does not. */
export interface Peer {
  readonly name: string;
  /** How its experts' weights are stored. */
  readonly storage: 'f32' | 'int8' | 'int4';
  /** Of what runs it. */
  readonly detail: string;
  /** x [tokens, hidden] → y [tokens, hidden]; upload and read-back included. */
  run(x: Float32Array): Promise<Float32Array>;
  dispose(): Promise<void> | void;
}

export interface Absent {
  readonly name: string;
  readonly why: string;
}

export const isAbsent = (p: Peer | Absent): p is Absent => 'why' in p;

export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]?.slice(0, 300) ?? '';

/** A peer that cannot be opened is told of, not left out. */
export async function tryPeer(name: string, open: () => Promise<Peer>): Promise<Peer | Absent> {
  try {
    return await open();
  } catch (error) {
    return { name, why: reasonOf(error) };
  }
}
