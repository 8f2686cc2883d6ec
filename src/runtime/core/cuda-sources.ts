/** What the digest of a CUDA library's sources is taken of: the one reckoning for the compiler, the builder and the loader. */

/** Files that belong to the sources: what the compiler reads, nothing of what it or a user puts beside it. */
export const isCudaSource = (path: string): boolean => /\.(cu|cuh|h)$/.test(path);

/**
 * Canonical text of the sources; its SHA-256 is `manifest.cuda.sources`.
 * @param files texts by path from the manifest's folder, with forward slashes; those that are no sources are left out
 */
export function cudaSourcesText(files: Iterable<readonly [string, string]>): string {
  const sources = [...files].filter(([path]) => isCudaSource(path));
  sources.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return JSON.stringify(sources);
}
