/**
 * Kernel IR: what one thread of one block does. Target-neutral, typed, plain data.
 *
 * One type, two verified levels: at `tile` level the `tile.*` statements are allowed, at `simt` level
 * none of them is left and barriers are explicit. Words: *block* (workgroup, CTA), *subgroup* (warp),
 * *thread*, *shared* (workgroup memory), *lanes* (components of one access). Threads of a block are
 * numbered in one dimension.
 */
import type { QuantFormat } from '../../base/quant.ts';

/** `f16` and `bf16` are storage types: loads of them are cast to f32 before arithmetic. */
export type Elem = 'f32' | 'f16' | 'bf16' | 'u32' | 'i32' | 'bool';
export type Lanes = 1 | 2 | 4;

export interface Ty {
  readonly elem: Elem;
  readonly lanes: Lanes;
}

export type Scope = 'global' | 'shared' | 'register';
export type Access = 'read' | 'write' | 'read_write';

export interface Buffer {
  readonly name: string;
  readonly scope: Scope;
  readonly elem: Elem;
  /** Elements moved by one access; indices count accesses, not elements. Fixed: WGSL cannot reinterpret a buffer. */
  readonly lanes: Lanes;
  /** Accesses (size in elements / lanes); 0 for global buffers, which are sized at run time. */
  readonly size: number;
  /** Global only: every access is atomic (u32). */
  readonly atomic?: boolean;
  /** Global only: derived by the pass `infer-access`. */
  readonly access?: Access;
  /** Global only: read once a call, so that caches near the threads need not keep it. A hint. */
  readonly streamed?: true;
  /** Shared only: the variant that allocates it orders its accesses itself; no barrier is derived for it. */
  readonly managed?: true;
  /** Shared only: alignment in bytes where it must be more than that of its accesses. */
  readonly align?: number;
}

export type BinOp =
  | '+' | '-' | '*' | '/' | '%'
  | '<' | '<=' | '>' | '>=' | '==' | '!='
  | '&&' | '||' | '&' | '|' | '^' | '<<' | '>>'
  | 'min' | 'max';
export type UnOp = 'neg' | 'not';
/**
 * `fma(a, b, c)` = a · b + c; `pack.f16(a, b)` and `pack.bf16(a, b)` round two f32 to nearest even into one u32, a in its low
 * half; the others take one argument.
 */
export type Fn = 'exp' | 'exp2' | 'log' | 'sqrt' | 'rsqrt' | 'abs' | 'floor' | 'fma' | 'pack.f16' | 'pack.bf16';
/** Block and grid coordinates, the thread in its block; lane and subgroup exist only with subgroups. */
export type Builtin =
  | 'block.x' | 'block.y' | 'block.z'
  | 'grid.x' | 'grid.y' | 'grid.z'
  | 'thread' | 'lane' | 'subgroup' | 'subgroup.size';
export type SubgroupOp = 'add' | 'max' | 'min' | 'broadcast';

export type Expr =
  | { readonly k: 'const'; readonly ty: Ty; readonly value: number }
  | { readonly k: 'var'; readonly ty: Ty; readonly name: string }
  | { readonly k: 'builtin'; readonly ty: Ty; readonly id: Builtin }
  /** A u32 that the host gives for the whole dispatch (uniform). */
  | { readonly k: 'scalar'; readonly ty: Ty; readonly name: ScalarName }
  | { readonly k: 'un'; readonly ty: Ty; readonly op: UnOp; readonly a: Expr }
  | { readonly k: 'bin'; readonly ty: Ty; readonly op: BinOp; readonly a: Expr; readonly b: Expr }
  | { readonly k: 'call'; readonly ty: Ty; readonly fn: Fn; readonly args: readonly Expr[] }
  /** Value conversion (u32 to f32, f16 to f32 …). */
  | { readonly k: 'cast'; readonly ty: Ty; readonly a: Expr }
  /** Same bits, other type (f32, u32, i32). */
  | { readonly k: 'bitcast'; readonly ty: Ty; readonly a: Expr }
  | { readonly k: 'lane'; readonly ty: Ty; readonly a: Expr; readonly i: number }
  | { readonly k: 'splat'; readonly ty: Ty; readonly a: Expr }
  | { readonly k: 'pack'; readonly ty: Ty; readonly args: readonly Expr[] }
  | { readonly k: 'select'; readonly ty: Ty; readonly cond: Expr; readonly a: Expr; readonly b: Expr }
  | { readonly k: 'load'; readonly ty: Ty; readonly buf: Buffer; readonly index: Expr }
  /** Needs uniform control flow. `broadcast` reads lane `lane` (a constant). */
  | { readonly k: 'subgroup'; readonly ty: Ty; readonly op: SubgroupOp; readonly a: Expr; readonly lane?: number };

/**
 * Scalars a kernel may read. `T`, `past`, `seq` come from the call; the others are constants of the
 * step: the range of experts or rows that the bound segment of a split weight holds.
 */
export type ScalarName = 'T' | 'past' | 'seq' | 'segment.first' | 'segment.count';

/**
 * A matrix operand as the main loop sees it: element (row, col) lies at access `index` / lane, where
 * `index` is written over the variables `row` and `col` (col counts elements, a multiple of buf.lanes).
 * Where `guard` (over `row`) is false the row reads as zeros and `index` is not evaluated.
 */
export interface View {
  readonly buf: Buffer;
  readonly row: string;
  readonly col: string;
  readonly index: Expr;
  readonly guard?: Expr;
  /**
   * Where the rows lie one after another: `index` = (first + row) · depth / lanes + col / lanes in a matrix of `rows` rows, or
   * of as many as the buffer's memory holds. Lets hardware copy boxes of it, which may reach beyond the rows that `guard` allows.
   */
  readonly matrix?: { readonly first: Expr; readonly rows?: number };
  /** Rows are quantised: `index` gives the word with element (row, col). */
  readonly packed?: PackedRows;
}

/** Rows of values and scales in words; `scale`, over `row` and `col`, is the word that holds the scale of col's group. */
export interface PackedRows {
  readonly format: QuantFormat;
  readonly scale: Expr;
}

/** Accumulators [count][rows, cols], f32, spread over the threads of a block as the expansion decides. */
export interface Tile {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly count: number;
}

/**
 * `rows` x `cols` elements of memory, copied into fast memory because products read them again and again. It lies there as the
 * `variant` that multiplies it wants: in f32 for `fma`, as it is stored (`elem`) for tensor cores.
 */
export interface Block {
  readonly name: string;
  readonly variant: MainloopSchedule['variant'];
  readonly elem: 'f32' | 'f16' | 'bf16';
  readonly rows: number;
  readonly cols: number;
}

/** Operand b of a product: b(c, k) is block(c, k) or, `transposed`, block(k, c): a depth that runs across the rows of memory. */
export interface BlockOperand {
  readonly block: Block;
  readonly transposed: boolean;
}

/**
 * Operand a of a product: a block, or the accumulators of another tile whose rows the same threads hold. A variant that
 * multiplies 16-bit numbers rounds them to the format of b.
 */
export type ProductRows = { readonly k: 'block'; readonly block: Block } | { readonly k: 'tile'; readonly tile: Tile };

export type ReduceOp = 'add' | 'max' | 'min';

/** Statements of the `tile` level only. */
export type TileStmt =
  | { readonly k: 'tile.alloc'; readonly tile: Tile }
  /**
   * tile[i](r, c) += Σ_{kk < k} a(r, kk) · b[i](c, kk), summed in ascending kk with fma, whatever the
   * variant: every expansion of the `fma` variant gives the same bits.
   */
  | { readonly k: 'tile.mainloop'; readonly tile: Tile; readonly a: View; readonly b: readonly View[]; readonly depth: number; readonly schedule: MainloopSchedule }
  /**
   * Runs `body` once per run of `lanes` elements of a row (`col` is the first one's, a multiple of `lanes`), `row`, `col` (u32)
   * and `values` (f32 x lanes, one per count) bound. No barrier inside.
   */
  | { readonly k: 'tile.map'; readonly tile: Tile; readonly row: string; readonly col: string; readonly lanes: 1 | 2; readonly values: readonly string[]; readonly body: readonly Stmt[] }
  /** Binds `name` in every thread to the reduction of `value` over the block, in a fixed order. Uniform control flow only. */
  | { readonly k: 'tile.reduce'; readonly name: string; readonly op: ReduceOp; readonly value: Expr }
  /**
   * Copies the rows and columns of a view that a block holds into it; what its guard leaves out becomes zeros. The copies may be
   * under way until the next `tile.await`. Uniform control flow only, as the next three.
   */
  | { readonly k: 'tile.stage'; readonly block: Block; readonly view: View }
  /** All blocks staged so far are there, all products so far have read theirs. Derived by the pass `await-blocks`. */
  | { readonly k: 'tile.await' }
  /** tile[i](r, c) += Σ_k a(r, k) · b[i](c, k) from fast memory, k ascending as in `tile.mainloop`; of the schedule counts who owns what. */
  | { readonly k: 'tile.product'; readonly tile: Tile; readonly a: ProductRows; readonly b: readonly BlockOperand[]; readonly schedule: MainloopSchedule }
  /**
   * Row values: one f32 a row, held by every thread that holds elements of the row, of this tile or of another whose rows the same
   * threads hold. Other row values, and the bodies of tile.map, tile.update and tile.fold, read them by name.
   * `tile.row` binds `name`, or assigns to it; `tile.fold` binds it to a reduction over the columns, in an order that the
   * schedule fixes.
   */
  | { readonly k: 'tile.row'; readonly name: string; readonly tile: Tile; readonly row: string; readonly value: Expr; readonly assign: boolean }
  | { readonly k: 'tile.fold'; readonly name: string; readonly op: ReduceOp; readonly tile: Tile; readonly row: string; readonly col: string; readonly values: readonly string[]; readonly value: Expr }
  /** tile[i](r, c) = to[i], over `row`, `col` (u32) and the `values` there were (f32, one per count). */
  | { readonly k: 'tile.update'; readonly tile: Tile; readonly row: string; readonly col: string; readonly values: readonly string[]; readonly to: readonly Expr[] };

export type Stmt =
  | { readonly k: 'let'; readonly name: string; readonly value: Expr }
  | { readonly k: 'var'; readonly name: string; readonly value: Expr }
  | { readonly k: 'assign'; readonly name: string; readonly value: Expr }
  | { readonly k: 'alloc'; readonly buf: Buffer }
  | { readonly k: 'store'; readonly buf: Buffer; readonly index: Expr; readonly value: Expr }
  /** for (name = from; name < to; name += step); bounds are u32. Written out whole, or a number of rounds at once, where the target's compiler takes such hints. */
  | { readonly k: 'for'; readonly name: string; readonly from: Expr; readonly to: Expr; readonly step: number; readonly unroll: boolean | number; readonly body: readonly Stmt[] }
  | { readonly k: 'if'; readonly cond: Expr; readonly then: readonly Stmt[]; readonly else: readonly Stmt[] }
  /** A minimum: a target may synchronise more. Derived by the pass `insert-barriers`. */
  | { readonly k: 'barrier'; readonly scope: 'subgroup' | 'block' }
  /** Atomic read-modify-write on u32; `result`, when named, is bound to the old value. */
  | { readonly k: 'atomic'; readonly op: 'add' | 'max'; readonly buf: Buffer; readonly index: Expr; readonly value: Expr; readonly result?: string }
  /** Survives to the printed source as a comment. Compiler text only. */
  | { readonly k: 'note'; readonly text: string }
  /**
   * One instruction of a machine that has no portable form, by the name of its wrapper in the target's prelude (`cp_async16`).
   * Variants put it where they expand a main loop; it touches registers and `managed` memory only, and the interpreter
   * does not run it.
   */
  | { readonly k: 'machine'; readonly op: string; readonly args: readonly MachineArg[] }
  | TileStmt;

export type MachineArg =
  | { readonly k: 'value'; readonly value: Expr }
  /** The address of one access of a buffer. */
  | { readonly k: 'address'; readonly buf: Buffer; readonly index: Expr }
  /** A number that the instruction encodes. */
  | { readonly k: 'immediate'; readonly value: number }
  /** One of the kernel's tensor maps. */
  | { readonly k: 'map'; readonly name: string };

export type StmtOf<K extends Stmt['k']> = Extract<Stmt, { readonly k: K }>;
export type ExprOf<K extends Expr['k']> = Extract<Expr, { readonly k: K }>;

/** How a main loop is run; plain data, by the variant that runs it. */
export type MainloopSchedule = FmaSchedule | MmaSyncSchedule | WgmmaSchedule;

/**
 * On any target. `register`: no shared memory, each thread loads what it needs. `shared`: operands staged in shared memory.
 * `broadcast`: the threads of a subgroup share rows of a; each loads a part of their depth and hands it round. Where subgroups of
 * one known size are not to be had it is expanded as `register`.
 */
export interface FmaSchedule {
  readonly variant: 'fma';
  readonly staging: 'register' | 'shared' | 'broadcast';
  /** Rows and columns of the tile that one thread accumulates. */
  readonly tm: number;
  readonly tn: number;
  /** Depth of one staged slice; a multiple of the operands' lanes. */
  readonly bk: number;
}

/** Tensor cores of one subgroup (NVIDIA sm_80 and up): slices of depth `bk` in a ring of `stages`, `warpsM` x `warpsN` subgroups side by side. */
export interface MmaSyncSchedule {
  readonly variant: 'mma-sync';
  readonly warpsM: number;
  readonly warpsN: number;
  readonly bk: number;
  readonly stages: number;
}

/** Tensor cores of four subgroups (NVIDIA sm_90a): one warpgroup loads, `consumers` warpgroups multiply 64 rows each. */
export interface WgmmaSchedule {
  readonly variant: 'wgmma';
  readonly consumers: number;
  readonly bk: number;
  readonly stages: number;
}

export interface Kernel {
  /** Made by the compiler: `[a-z][a-z0-9_]*`. */
  readonly name: string;
  readonly family: string;
  readonly params: readonly Buffer[];
  readonly scalars: readonly ScalarName[];
  /** Threads per block. */
  readonly block: number;
  /** Blocks that shall find room on one processor at a time, where that matters: it says how many registers a thread may take. A hint. */
  readonly resident?: number;
  readonly body: readonly Stmt[];
  /** The schedule it was made from, for printing, hashing and tuning. */
  readonly schedule: Readonly<Record<string, number | string>>;
  /** Parameters seen as matrices that hardware copies boxes of; put by variants. */
  readonly tensorMaps?: readonly TensorMap[];
}

/** `param` as a matrix of 16-bit elements [rows, cols], copied in boxes of [boxRows, 64] with the 128-byte swizzle. */
export interface TensorMap {
  readonly name: string;
  readonly param: string;
  /** Absent: as many as its memory holds, which the host knows. */
  readonly rows?: number;
  readonly cols: number;
  readonly boxRows: number;
}
