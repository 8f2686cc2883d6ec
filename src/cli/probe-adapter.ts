/** Run as a process of its own: prints what Dawn's WebGPU adapter is, as JSON, or exits with 3. */
import { nodeGpu } from '../runtime/node/gpu.ts';

try {
  // Dawn's adapter has all of the standard's; the runtime's own types name only what it needs.
  const adapter = (await (await nodeGpu()).requestAdapter()) as unknown as GPUAdapter | null;
  if (adapter === null) process.exit(3);
  const { info, limits, features } = adapter;
  const facts = {
    description: info.description || info.device || info.vendor || 'unnamed adapter',
    vendor: info.vendor,
    features: [...features].sort(),
    limits: {
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxBufferSize: limits.maxBufferSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    },
  };
  process.stdout.write(`${JSON.stringify(facts)}\n`);
  process.exit(0);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(3);
}
