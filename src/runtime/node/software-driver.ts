/**
 * Loads a Vulkan software driver that `moec doctor --install-driver` unpacked into the user's cache
 * folder (machines without a GPU and without root). Does nothing where there is none.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where the unpacked driver lies: `$XDG_CACHE_HOME/moec/driver`. */
export const driverHome = (): string => join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'moec', 'driver');

const walk = (dir: string): string[] =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat === undefined ? [] : stat.isDirectory() ? walk(path) : [path];
  });

const RTLD_NOW = 2;
const RTLD_GLOBAL = 0x100;
const RTLD_NODELETE = 0x1000;

function open(file: string): boolean {
  try {
    process.dlopen({ exports: {} }, file, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    return true;
  } catch (error) {
    // A plain library opens, stays (NODELETE), and is only then refused for not being an addon.
    return /self-register/.test(String(error));
  }
}

/**
 * Opens the unpacked libraries for the life of the process, so that Dawn finds them by name when it
 * asks for Vulkan, and points Vulkan at the driver. True where there was one to load.
 */
export function activateSoftwareDriver(home: string = driverHome()): boolean {
  const icd = join(home, 'icd.json');
  if (process.platform !== 'linux' || !existsSync(icd) || process.env['VK_DRIVER_FILES'] !== undefined) return false;
  process.env['VK_DRIVER_FILES'] = icd;
  const isLibrary = (f: string): boolean => /\.so(\.\d+)*$/.test(f) && !f.includes('/dri/') && !/libvulkan_(?!lvp)/.test(f);
  let waiting = walk(join(home, 'root')).filter(isLibrary);
  // A library opens once those it needs are open: go round until nothing more opens.
  for (;;) {
    const failed = waiting.filter((file) => !open(file));
    if (failed.length === 0 || failed.length === waiting.length) return true;
    waiting = failed;
  }
}
