/**
 * moe.route where subgroups have a known size: a subgroup chooses for a token, several of them in a block, and the tokens of a
 * block share each access of the gate. One kernel does everything, except where a few tokens meet a large gate: then the logits
 * are made by many blocks, each with some experts, and the choice is a kernel of its own.
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import { subgroupThreads } from '../../target/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { teamSize } from '../team.ts';
import { define, inLine, lanesFor, launch, line, powerOfTwo, wantWhole } from './common.ts';
import type { LaunchGroup } from './common.ts';
import { chooseTokens } from './expert-choice.ts';
import { readLogits } from './route-logits.ts';
import type { LogitSink } from './route-logits.ts';
import { eachOwn, routeKernel } from './route-parts.ts';
import type { Crew, RouteKernel } from './route-parts.ts';
import type { RouteCrews, RouteProblem } from './route-problem.ts';
import { buildRule, gateBias, needsLogits } from './route-rule.ts';
import { tokenLogits } from './route-tokens.ts';
import type { TokenTile } from './route-tokens.ts';

/** Calls of so few tokens decode. */
const FEW_TOKENS = 8;
/** Bytes of a gate that one processor reads for a few tokens in less time than a second kernel takes to begin. */
const SMALL_GATE = 256 * 1024;
/** Threads that share an expert's depth. */
const MEMBERS = 8;
/** Sums of a thread. */
const SUMS = 64;
/** Pieces of a row begin at a multiple of this: who adds what up must not depend on how long they are. */
const PIECE = 32;

const wholePieces = (depth: number): number => Math.ceil(depth / PIECE) * PIECE;

/** Nothing where subgroups have no known size, or are narrow: a block then chooses for a token faster than a crew. */
export function routeCrews(p: RouteProblem, caps: Capabilities): RouteCrews | undefined {
  const size = teamSize(caps);
  if (size === undefined) return undefined;
  const { source, maxTokens } = p;
  // Without a gate only the choice is left: a block of four subgroups.
  if (source.kind !== 'hidden') return { block: 4 * size, tokens: 4, chunk: 1, unroll: 1, guarded: 1, split: 0 };
  const depth = source.dim / lanesFor(source.dim);
  if (maxTokens !== undefined && maxTokens <= FEW_TOKENS) {
    const split = p.experts * source.dim * (source.gateElem === 'f32' ? 4 : 2) > SMALL_GATE ? 1 : 0;
    const chunk = Math.min(512, wholePieces(depth));
    // Blocks that share the experts are small, so that there are many.
    return { block: split === 1 ? 2 * size : 8 * size, tokens: powerOfTwo(maxTokens), chunk, unroll: 16, guarded: 1, split };
  }
  const subgroups = Math.min(16, Math.max(2, powerOfTwo(p.experts / 16)));
  const per = Math.ceil(p.experts / ((subgroups * size) / MEMBERS));
  // Short calls spread over more blocks; long ones share the gate among more tokens.
  const wanted = maxTokens === undefined ? 16 : maxTokens > 256 ? 8 : 4;
  const most = 2 ** Math.floor(Math.log2(Math.max(1, SUMS / per)));
  // Blocks of 512 threads have 128 registers a thread, too few for two accesses of everything under way.
  const unroll = subgroups < 16 ? 2 : 1;
  return { block: subgroups * size, tokens: Math.min(wanted, most), chunk: Math.min(64, wholePieces(depth)), unroll, guarded: 0, split: 0 };
}

function check(p: RouteProblem, s: RouteCrews, size: number, caps: Capabilities): void {
  wantWhole('route', { block: s.block, tokens: s.tokens, chunk: s.chunk, unroll: s.unroll, 'block / subgroup': s.block / size });
  if (s.block > caps.maxThreadsPerBlock) throw new Error(`route: ${s.block} threads a block, the target has ${caps.maxThreadsPerBlock}`);
  if (p.source.kind === 'hidden' && s.chunk % PIECE !== 0) throw new Error(`route: pieces of ${s.chunk} accesses, not of a multiple of ${PIECE}`);
}

/** The block's tokens and the thread's subgroup, and the kernel around what is done with them. */
interface Frame {
  readonly tile: Omit<TokenTile, 'expert0' | 'experts' | 'others'>;
  /** `slices`: blocks beside each other that take the same tokens. */
  finish(name: string, r: RouteKernel, body: readonly Stmt[], slices?: number): Launch;
}

function frame(s: RouteCrews, size: number, caps: Capabilities): Frame {
  const blocks = ceilDivSize('T', s.tokens);
  const l = line(blocks, caps);
  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const inside: Stmt[] = [];
  const token0 = define(inside, 'token0', b.mul(index, b.u32(s.tokens)));
  const count = define(inside, 'tokens', b.min(b.u32(s.tokens), b.sub(b.scalar('T'), token0)));
  const subgroup = define(inside, 'crew', b.div(b.thread, b.u32(size)));
  const lane = define(inside, 'lane_of_crew', b.mod(b.thread, b.u32(size)));
  return {
    tile: { s, token0, count, subgroup, lane },
    finish(name, r, body, slices = 1) {
      const bytes = r.shared.reduce((n, x) => n + 4 * x.lanes * x.size, 0);
      if (bytes > caps.maxSharedBytes) throw new Error(`route: ${bytes} bytes of shared memory, the target has ${caps.maxSharedBytes}`);
      const all = inLine(l, index, b.ceilDiv(b.scalar('T'), b.u32(s.tokens)), [...inside, ...body]);
      return launch({
        name,
        family: 'route',
        params: r.params,
        scalars: ['T'],
        block: s.block,
        resident: Math.max(1, Math.floor(384 / s.block)),
        body: [...head, ...r.shared.map(b.alloc), ...all],
        schedule: { ...s },
        grid: [l.grid[0], l.grid[1], slices],
      });
    },
  };
}

/** Logits [T, experts] without their bias in scratch, by blocks that take some of the experts each. */
function logitsKernel(p: RouteProblem, s: RouteCrews, size: number, caps: Capabilities): Launch {
  if (p.source.kind !== 'hidden') throw new Error('route: only a hidden state makes logits');
  const f = frame(s, size, caps);
  const r = routeKernel(p, s.block);
  const experts = s.block / MEMBERS;
  const slice = b.builtin('block.z');
  const tile: TokenTile = { ...f.tile, expert0: b.mul(slice, b.u32(experts)), experts, others: b.eq(slice, b.u32(0)) };
  const out = b.buffer('logits', 'global', 'f32');
  tokenLogits(r, p.source, tile, (t, e, logit) => [
    b.if_(b.lt(t, tile.count), [b.store(out, b.add(b.mul(b.add(tile.token0, t), b.u32(p.experts)), e), logit)]),
  ]);
  r.params.push(['logits', out]);
  return f.finish(`router_logits_${p.experts}`, r, r.body, Math.ceil(p.experts / experts));
}

/** The rule, a subgroup a token; its logits are made before by the whole block, read, or not needed. */
function ruleKernel(p: RouteProblem, s: RouteCrews, size: number, caps: Capabilities, logitsReady: boolean): Launch {
  const f = frame(s, size, caps);
  const { token0, count, subgroup, lane } = f.tile;
  const crews = s.block / size;
  const before: Stmt[] = [];
  const body: Stmt[] = [];
  const round = s.tokens > crews ? b.variable('crew_round') : b.u32(0);
  const place = define(body, 'place', b.add(round, subgroup));
  // A crew without a token repeats the last one, and writes nothing.
  const own = define(body, 'own_place', b.min(place, b.sub(count, b.u32(1))));
  body.push(b.let_('token', b.add(token0, own)));
  const crew: Crew = { threads: size, self: lane, count: crews, index: subgroup, here: b.lt(place, count) };
  const r: RouteKernel = { ...routeKernel(p, s.block, crew), body };
  const { source } = p;

  const make = (sink: LogitSink | undefined): void => {
    if (source.kind !== 'hidden' || logitsReady) {
      if (sink !== undefined) readLogits(r, logitsReady ? gateBias(r) : undefined, sink);
      return;
    }
    const raw = b.buffer('raw_logit', 'shared', 'f32', 1, s.tokens * p.experts);
    if (sink !== undefined) r.shared.push(raw);
    const made = { ...r, body: before };
    const tile: TokenTile = { ...f.tile, expert0: b.u32(0), experts: p.experts };
    const keep = (t: Parameters<LogitSink>[0], e: typeof t, logit: typeof t): readonly Stmt[] => [b.store(raw, b.add(b.mul(t, b.u32(p.experts)), e), logit)];
    tokenLogits(made, source, tile, sink === undefined ? undefined : keep);
    if (sink === undefined) return;
    const bias = gateBias(r);
    r.body.push(
      eachOwn(r, 'logit_e', p.experts, (e) => {
        const logit = b.load(raw, b.add(b.mul(own, b.u32(p.experts)), e));
        return sink(e, bias === undefined ? logit : b.add(logit, b.loadF32(bias, e)));
      }),
    );
  };
  const name = buildRule(r, make);
  const rule = s.tokens > crews ? [b.for_('crew_round', b.u32(0), b.u32(s.tokens), crews, () => body)] : body;
  return f.finish(name, r, [...before, ...rule]);
}

export function routeByCrews(p: RouteProblem, s: RouteCrews, caps: Capabilities): LaunchGroup {
  const size = subgroupThreads(caps);
  if (size === undefined) throw new Error('route: subgroups of the device have no known size');
  check(p, s, size, caps);
  const perExpert = mulSize('T', p.experts);
  const split = s.split === 1 && p.source.kind === 'hidden' && needsLogits(p);
  const rest = routeCrews({ ...p, source: { kind: 'logits' } }, caps);
  const launches =
    split && rest !== undefined ? [logitsKernel(p, s, size, caps), ruleKernel(p, rest, size, caps, true)] : [ruleKernel(p, s, size, caps, false)];
  const chooses = p.select.kind === 'expert-choice';
  return {
    launches: [...launches, ...(p.select.kind === 'expert-choice' ? chooseTokens(p, p.select.capacityFactor, caps) : [])],
    scratch: [
      ...(split ? [{ name: 'logits', elem: 'f32', size: perExpert } as const] : []),
      ...(chooses ? [{ name: 'scores', elem: 'f32', size: perExpert } as const] : []),
    ],
  };
}
