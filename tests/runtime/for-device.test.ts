/** What of a package serves a device: buckets by subgroup size and adapter, and the kernels they use. */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { specialisedPlans } from '../../src/driver/lower-program.ts';
import type { Manifest } from '../../src/runtime/core/abi.ts';
import type { DeviceInfo } from '../../src/runtime/core/backend.ts';
import { forDevice } from '../../src/runtime/core/for-device.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { layer, moe, swiglu } from '../lower/specs.ts';

const INFO: DeviceInfo = {
  backend: 'fake', name: 'fake', adapter: 'a / b / c / d', software: true, features: ['subgroups'],
  limits: { maxBindingBytes: 1 << 27, maxBufferBytes: 1 << 28, maxBindings: 8, maxThreadsPerBlock: 256, maxSharedBytes: 16_384, maxGrid: 65_535 },
};

/** A package with buckets for one adapter, for subgroups of 32, and for any device; tile rows tell them apart. */
function packageFor(adapter: string): Manifest {
  const caps = WEBGPU_BASELINE;
  const tuned = { device: { adapter }, caps, buckets: [{ maxTokens: 16, schedules: () => ({ tileRows: () => 4 }) }] };
  const rows16 = { schedules: () => ({ tileRows: () => 16 }) };
  const sized = { device: { subgroupSize: 32 }, caps, buckets: [{ maxTokens: 8, ...rows16 }, { maxTokens: undefined, ...rows16 }] };
  const { manifest } = compileSpec(layer('t', 32, moe(4, 2, swiglu(16))), { plans: [tuned, sized] });
  return readManifest(JSON.parse(JSON.stringify(manifest)));
}

const buckets = (m: Manifest): readonly (number | null)[] => m.sections[0]?.buckets.map((b) => b.maxTokens) ?? [];

describe('a package on a device', () => {
  const whole = packageFor(INFO.adapter);

  it('keeps the buckets that the device matches, up to one that takes any number of tokens', () => {
    expect(buckets(whole)).toEqual([16, 8, null, 8, null]);
    expect(buckets(forDevice(whole, INFO))).toEqual([16, 8, null]);
    expect(buckets(forDevice(whole, { ...INFO, subgroupSize: 32 }))).toEqual([16, 8, null]);
    expect(buckets(forDevice(whole, { ...INFO, adapter: 'another', subgroupSize: 32 }))).toEqual([8, null]);
    expect(buckets(forDevice(whole, { ...INFO, adapter: 'another', subgroupSize: 16 }))).toEqual([8, null]);
  });

  it('keeps the kernels of those buckets, and the right ones', () => {
    const own = forDevice(whole, { ...INFO, subgroupSize: 32 });
    expect(own.kernels.length).toBeLessThan(whole.kernels.length);
    own.sections.forEach((s, i) =>
      s.buckets.forEach((b, j) =>
        b.steps.forEach((st, k) => {
          const before = whole.sections[i]?.buckets[j]?.steps[k];
          expect(own.kernels[st.kernel]).toBe(whole.kernels[before?.kernel ?? -1]);
        })));
    expect(new Set(own.sections.flatMap((s) => s.buckets.flatMap((b) => b.steps.map((st) => st.kernel)))).size).toBe(own.kernels.length);
  });

  it('leaves out forms that ask for more than the device has', () => {
    const small = { ...INFO, subgroupSize: 32, limits: { ...INFO.limits, maxThreadsPerBlock: 1 } };
    expect(buckets(forDevice(whole, small))).toEqual([8, null]);
    const last = whole.sections[0]?.buckets[3]?.steps.length;
    expect(forDevice(whole, small).sections[0]?.buckets[0]?.steps.length).toBe(last);
  });
});

describe('schedules from outside', () => {
  it('reach the kernels of their bucket alone', () => {
    const caps = WEBGPU_BASELINE;
    const spec = layer('t', 64, moe(4, 2, swiglu(32)));
    const seen: string[] = [];
    const plan = {
      device: { adapter: 'x' }, caps,
      buckets: [{
        maxTokens: undefined,
        schedules: () => ({
          tileRows: () => 4,
          find: (family: string) => {
            seen.push(family);
            return undefined;
          },
        }),
      }],
    };
    const { program } = compileSpec(spec, { plans: [plan] });
    expect(seen).toContain('grouped-linear');
    const rows = program.sections[0]?.buckets.map((b) => b.steps.flatMap((s) => s.kernel.schedule['bm'] ?? []));
    expect(rows?.[0]).toEqual(expect.arrayContaining([4]));
    expect(rows?.[2]).not.toContain(4);
    expect(specialisedPlans({ ...caps, subgroups: true, subgroupSize: 8 })).toEqual([]);
  });
});
