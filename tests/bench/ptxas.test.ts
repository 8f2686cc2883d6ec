import { expect, it } from 'vitest';
import { readPtxasLog } from '../../bench/ptxas-log.ts';

const LOG = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z7k0_normPKfPf' for 'sm_90a'
ptxas info    : Function properties for _Z7k0_normPKfPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
ptxas info    : Compile time = 12.3 ms
ptxas info    : Compiling entry function '_Z10k1_expertsPKfPf' for 'sm_90a'
ptxas info    : Function properties for _Z10k1_expertsPKfPf
    48 bytes stack frame, 44 bytes spill stores, 52 bytes spill loads
ptxas info    : Function properties for helper
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 4 barriers, 48 bytes cumulative stack size
`;

it('reads registers and spills of each kernel', () => {
  expect(readPtxasLog(LOG)).toEqual([
    { name: 'k0_norm', arch: 'sm_90a', registers: 40, stack: 0, spillStores: 0, spillLoads: 0 },
    { name: 'k1_experts', arch: 'sm_90a', registers: 168, stack: 48, spillStores: 44, spillLoads: 52 },
  ]);
  expect(readPtxasLog('nothing of the kind')).toEqual([]);
});
