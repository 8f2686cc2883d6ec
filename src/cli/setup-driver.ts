/**
 * Makes sure that Dawn finds a WebGPU adapter on this machine. Where there is none it fetches Mesa's
 * software driver (lavapipe) with the system's own package manager: into the system as root, into the
 * user's cache folder without.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { driverHome } from '../runtime/node/software-driver.ts';

type Say = (text: string) => void;

export interface AdapterFacts {
  readonly description: string;
  readonly vendor: string;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

/** The adapter Dawn finds, asked in a child process: a broken driver must not take this one down. */
export function describeAdapter(): AdapterFacts | undefined {
  const script = join(dirname(fileURLToPath(import.meta.url)), 'probe-adapter.js');
  const run = spawnSync(process.execPath, [script], { encoding: 'utf8', timeout: 60_000 });
  if (run.status !== 0) return undefined;
  const facts: AdapterFacts = JSON.parse(run.stdout);
  return facts;
}

function osRelease(): Map<string, string> {
  if (!existsSync('/etc/os-release')) return new Map();
  const lines = readFileSync('/etc/os-release', 'utf8').split('\n');
  return new Map(lines.flatMap((l) => {
    const m = /^(\w+)="?(.*?)"?$/.exec(l);
    return m === null ? [] : [[m[1] ?? '', m[2] ?? ''] as const];
  }));
}

/** Debian 12's own Mesa is too old for Dawn; its backports carry a recent one. */
const backportsOf = (os: ReadonlyMap<string, string>): string | undefined =>
  os.get('ID') === 'debian' && os.get('VERSION_CODENAME') === 'bookworm' ? 'bookworm-backports' : undefined;

const capture = (command: string, args: readonly string[], cwd?: string): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], ...(cwd === undefined ? {} : { cwd }) });

/** The archives this machine already uses, as one-line sources, backports added where they are needed. */
function sourceLines(os: ReadonlyMap<string, string>): string[] {
  const rows = capture('apt-get', ['indextargets', '--format', '$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)'])
    .split('\n')
    .map((l) => l.split('|'))
    .filter((r) => r[3] === 'Packages' && (r[2] === 'main' || r[2] === 'universe'));
  const lines = rows.map((r) => `deb ${r[0]} ${r[1]} ${r[2]}`);
  const backports = backportsOf(os);
  const main = rows.find((r) => r[1] === os.get('VERSION_CODENAME') && r[2] === 'main');
  if (backports !== undefined && main !== undefined) lines.push(`deb ${main[0]} ${backports} main`);
  return [...new Set(lines)];
}

const PACKAGES = ['mesa-vulkan-drivers', 'libvulkan1'] as const;
const releaseArgs = (os: ReadonlyMap<string, string>): string[] => {
  const backports = backportsOf(os);
  return backports === undefined ? [] : ['-t', backports];
};

function installInSystem(os: ReadonlyMap<string, string>): void {
  const line = sourceLines(os).find((l) => l.includes('-backports '));
  const present = capture('apt-get', ['indextargets', '--format', '$(RELEASE)']).includes('-backports');
  if (line !== undefined && !present) writeFileSync('/etc/apt/sources.list.d/moec-backports.list', `${line}\n`);
  const apt = (...args: string[]): void => {
    execFileSync('apt-get', args, { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } });
  };
  apt('update');
  apt('install', '-y', '--no-install-recommends', ...releaseArgs(os), ...PACKAGES);
}

interface Package {
  readonly name: string;
  readonly version: string;
}

/** The C and C++ runtimes of the running process cannot be replaced beside it. */
const NEVER_BESIDE = /^(libc6|libgcc-s1|libstdc\+\+6|gcc-\d+-base)$/;

/** Those of the packages that the system lacks or has in an older version. */
function missing(planned: readonly Package[]): Package[] {
  const rows = capture('dpkg-query', ['-W', '-f', '${Package} ${Version} ${db:Status-Status}\n']).split('\n').map((l) => l.split(' '));
  const installed = new Map(rows.filter((r) => r[2] === 'installed').map((r) => [r[0] ?? '', r[1] ?? '']));
  const isOlder = (have: string, want: string): boolean => spawnSync('dpkg', ['--compare-versions', have, 'lt', want]).status === 0;
  return planned.filter(({ name, version }) => {
    const have = installed.get(name);
    return !NEVER_BESIDE.test(name) && (have === undefined || isOlder(have, version));
  });
}

/** Without root: downloads what is missing with an apt state of its own and unpacks it. */
function installInCache(os: ReadonlyMap<string, string>, home: string): void {
  const apt = join(home, 'apt');
  rmSync(home, { recursive: true, force: true });
  for (const d of ['state/lists/partial', 'cache/archives/partial', 'debs']) mkdirSync(join(apt, d), { recursive: true });
  writeFileSync(join(apt, 'status'), '');
  writeFileSync(join(apt, 'sources.list'), `${sourceLines(os).join('\n')}\n`);
  const settings = {
    'Dir::State': join(apt, 'state'),
    // Planned as if nothing were installed: a system in disorder must not stop an unpacking beside it.
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Debug::NoLocking': '1',
    'APT::Sandbox::User': '',
  };
  const options = Object.entries(settings).flatMap(([k, v]) => ['-o', `${k}=${v}`]);
  const run = (args: readonly string[], cwd: string): string => capture('apt-get', [...options, ...args], cwd);
  run(['update'], apt);
  const plan = run(['-s', '--no-install-recommends', ...releaseArgs(os), 'install', ...PACKAGES], apt);
  const planned = [...plan.matchAll(/^Inst (\S+) .*?\((\S+) /gm)].map((m) => ({ name: m[1] ?? '', version: m[2] ?? '' }));
  const wanted = missing(planned).map((p) => `${p.name}=${p.version}`);
  if (wanted.length === 0) throw new Error('the driver is installed already, and Dawn still finds no adapter');
  run(['download', ...wanted], join(apt, 'debs'));
  const root = join(home, 'root');
  for (const deb of readdirSync(join(apt, 'debs'))) capture('dpkg', ['-x', join(apt, 'debs', deb), root]);
  rmSync(apt, { recursive: true, force: true });
  const driver = capture('find', [root, '-name', 'libvulkan_lvp.so']).split('\n')[0] ?? '';
  if (driver === '') throw new Error('the downloaded packages hold no lavapipe');
  writeFileSync(join(home, 'icd.json'), `${JSON.stringify({ file_format_version: '1.0.0', ICD: { library_path: driver, api_version: '1.3.0' } })}\n`);
}

/** Finds or fetches an adapter; undefined where none can be had. Never throws. */
export function setupDriver(say: Say): AdapterFacts | undefined {
  const found = describeAdapter();
  if (found !== undefined) {
    say(`WebGPU adapter: ${found.description}`);
    return found;
  }
  if (process.platform !== 'linux' || !existsSync('/usr/bin/apt-get')) {
    say('no WebGPU adapter, and no software driver to fetch for this system: runs use the reference evaluator');
    return undefined;
  }
  const os = osRelease();
  try {
    if (process.getuid?.() === 0) {
      say('no WebGPU adapter: installing the Vulkan software driver (lavapipe) with apt');
      installInSystem(os);
    } else {
      say(`no WebGPU adapter: unpacking the Vulkan software driver (lavapipe) into ${driverHome()}`);
      installInCache(os, driverHome());
    }
  } catch (error) {
    say(`the software driver could not be fetched: ${error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)}`);
  }
  const adapter = describeAdapter();
  say(adapter === undefined ? 'still no WebGPU adapter: runs use the reference evaluator' : `WebGPU adapter: ${adapter.description}`);
  return adapter;
}
