/** What `ptxas -v` says of kernels. */

export interface KernelUse {
  /** As the source calls it. */
  readonly name: string;
  /** Machine code of which architecture; a library for sm_80 holds that of its successors too. */
  readonly arch: string;
  readonly registers: number;
  /** Bytes stored to and loaded from local memory because registers ran out. */
  readonly spillStores: number;
  readonly spillLoads: number;
  /** Bytes of local memory per thread. */
  readonly stack: number;
}

/** The name of an entry function: `_Z7k0_normPKfPf` is `k0_norm`. Other names are as they are. */
function plainName(symbol: string): string {
  const mangled = /^_Z(\d+)/.exec(symbol);
  if (mangled === null) return symbol;
  const from = mangled[0].length;
  return symbol.slice(from, from + Number(mangled[1]));
}

/** Entry functions in the order of the log; of functions that are called and not inlined, nothing is kept. */
export function readPtxasLog(log: string): KernelUse[] {
  const found: KernelUse[] = [];
  let name: string | undefined;
  let arch = '';
  let spill = { stack: 0, spillStores: 0, spillLoads: 0 };
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line);
    if (entry !== null) {
      name = plainName(entry[1] ?? '');
      arch = entry[2] ?? '';
      spill = { stack: 0, spillStores: 0, spillLoads: 0 };
    }
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    // The entry's own frame comes first; those of functions it calls may follow.
    if (frame !== null && name !== undefined && spill.stack + spill.spillStores + spill.spillLoads === 0) {
      spill = { stack: Number(frame[1]), spillStores: Number(frame[2]), spillLoads: Number(frame[3]) };
    }
    const used = /Used (\d+) registers/.exec(line);
    if (used !== null && name !== undefined) {
      found.push({ name, arch, registers: Number(used[1]), ...spill });
      name = undefined;
    }
  }
  return found;
}
