/** Run as a process of its own: prints the WebGPU adapter that Dawn finds, or exits with 3. */
import { activateSoftwareDriver } from '../runtime/node/software-driver.ts';

activateSoftwareDriver();
try {
  const { create } = await import('webgpu');
  const gpu = create([]);
  // Dawn crashes if its instance is collected while it works.
  Object.assign(globalThis, { moecGpu: gpu });
  const adapter = await gpu.requestAdapter();
  if (adapter === null) process.exit(3);
  process.stdout.write(`${adapter.info.description || adapter.info.device || adapter.info.vendor || 'unnamed adapter'}\n`);
  process.exit(0);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(3);
}
